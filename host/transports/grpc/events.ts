/**
 * The event log over gRPC: as it is, and what of it concerns the user interface. Invariant: ids are those
 * of the log, so a reader goes on after the last one it saw, over whichever transport.
 */
import { type CloudEvent, NoaError } from '@noa/sdk/host';
import type { EventReader } from '../../kernel/events.ts';
import type { Streaming } from './handler.ts';

const PAGE = 100;
const MAX_SUBJECTS = 32;
const SUBJECT = /^([A-Za-z0-9][A-Za-z0-9._/-]{0,199}\*?|\*)$/;

/** Subjects of events that the user interface follows: a workflow by its id, and notifications. */
const WORKFLOW = 'workflow/';
const NOTIFICATION = 'notification';
const UI_TYPES = [
  'workflow/state',
  'workflow/stage',
  'workflow/stage-receipt',
  'workflow/resume',
  NOTIFICATION,
];

/** noa.api.v1.EventService/Subscribe */
export function subscribe(events: EventReader): Streaming {
  return {
    isEndless: true,
    run: async ({ signal }, request, send) => {
      const { subjects, since } = request as { subjects: string[]; since: string };
      if (subjects.length > MAX_SUBJECTS) {
        throw new NoaError('INVALID_ARGUMENT', `subjects: name at most ${MAX_SUBJECTS}`);
      }
      const wrong = subjects.find((subject) => !SUBJECT.test(subject));
      if (wrong !== undefined) {
        const rule = `${JSON.stringify(wrong.slice(0, 200))} must be a subject of letters, digits and . _ / -, or such a prefix and *`;
        throw new NoaError('INVALID_ARGUMENT', `subjects: ${rule}`);
      }
      const wanted = subjects.length === 0 ? ['*'] : subjects;
      for await (const { data, ...event } of follow(events, wanted, since, signal)) {
        await send({ event: { ...event, data_json: JSON.stringify(data) } });
      }
    },
  };
}

/** noa.ui.UiSchemaService/StreamEvents */
export function streamUiEvents(events: EventReader): Streaming {
  return {
    isEndless: true,
    run: async ({ signal }, request, send) => {
      const given = request as { workflow_id: string; event_types: string[]; since: string };
      const { workflow_id: id, event_types: types, since } = given;
      const unknown = types.find((type) => !UI_TYPES.includes(type));
      if (unknown !== undefined) {
        const rule = `${JSON.stringify(unknown.slice(0, 200))} is none of ${UI_TYPES.join(', ')}`;
        throw new NoaError('INVALID_ARGUMENT', `event_types: ${rule}`);
      }
      const subject = WORKFLOW + (id === '' ? '*' : id);
      if (!SUBJECT.test(subject) || id.includes('*')) {
        const rule = 'an id is of letters, digits and . _ / -';
        throw new NoaError('INVALID_ARGUMENT', `workflow_id: ${rule}`);
      }
      const wanted = new Set(types.length === 0 ? UI_TYPES : types);
      const subjects = [subject, `${NOTIFICATION}*`];
      for await (const event of follow(events, subjects, since, signal)) {
        if (wanted.has(event.type)) await send(uiEvent(event));
      }
    },
  };
}

function uiEvent({ id, type, subject, time, data }: CloudEvent): object {
  const workflow = subject.startsWith(WORKFLOW) ? subject.slice(WORKFLOW.length) : '';
  const payload_json = JSON.stringify(data);
  return { event_type: type, workflow_id: workflow, payload_json, timestamp: time, id };
}

/** The events after an id, for as long as the signal lets it. Throws INVALID_ARGUMENT, or the signal's reason. */
async function* follow(
  events: EventReader,
  subjects: readonly string[],
  since: string,
  signal: AbortSignal,
): AsyncGenerator<CloudEvent> {
  let after = await start(events, since);
  let isNew = true;
  let wake: () => void = () => undefined;
  const stop = events.onNew(() => {
    isNew = true;
    wake();
  });
  const abort = () => wake();
  signal.addEventListener('abort', abort);
  try {
    for (;;) {
      signal.throwIfAborted();
      if (!isNew) {
        await new Promise<void>((resolve) => (wake = resolve));
        continue;
      }
      isNew = false;
      const page = await events.read({ after, subjects, limit: PAGE });
      after = page.next;
      if (page.events.length > 0) isNew = true; // there may be more
      yield* page.events;
    }
  } finally {
    stop();
    signal.removeEventListener('abort', abort);
  }
}

async function start(events: EventReader, since: string): Promise<number> {
  const head = await events.head();
  if (since === '') return head;
  if (!/^[0-9]{1,15}$/.test(since) || Number(since) > head) {
    const rule = `write the id of an event, at most ${head}, or 0 for all that are kept`;
    throw new NoaError('INVALID_ARGUMENT', `since: ${rule}`);
  }
  return Number(since);
}
