/**
 * The event log over gRPC: as it is, and what of it concerns the user interface. Invariant: ids are those
 * of the log, so a reader goes on after the last one it saw, over whichever transport.
 */
import { type CloudEvent, NoaError } from '@noa/sdk/host';
import { shown } from '../streams/events.ts';
import type { EventFeed, Gap } from '../streams/feed.ts';
import { readSubjects } from '../streams/subscription.ts';
import { follow } from './follow.ts';
import type { Streaming } from './handler.ts';

const WORKFLOW_ID = /^[A-Za-z0-9._/-]{0,180}$/;

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
export function subscribe(feed: EventFeed): Streaming {
  return {
    isEndless: true,
    run: async (exchange, request, send) => {
      const { subjects, since } = request as { subjects: string[]; since: string };
      for await (const found of follow(feed, readSubjects(subjects), since, exchange)) {
        await send('gap' in found ? { gap: shown(found.gap) } : { event: cloudEvent(found.event) });
      }
    },
  };
}

/** noa.ui.UiSchemaService/StreamEvents */
export function streamUiEvents(feed: EventFeed): Streaming {
  return {
    isEndless: true,
    run: async (exchange, request, send) => {
      const given = request as { workflow_id: string; event_types: string[]; since: string };
      const { workflow_id: id, event_types: types, since } = given;
      const unknown = types.find((type) => !UI_TYPES.includes(type));
      if (unknown !== undefined) {
        const rule = `${JSON.stringify(unknown.slice(0, 200))} is none of ${UI_TYPES.join(', ')}`;
        throw new NoaError('INVALID_ARGUMENT', `event_types: ${rule}`);
      }
      if (!WORKFLOW_ID.test(id)) {
        const rule = 'an id is of letters, digits and . _ / -';
        throw new NoaError('INVALID_ARGUMENT', `workflow_id: ${rule}`);
      }
      const wanted = new Set(types.length === 0 ? UI_TYPES : types);
      const subjects = [WORKFLOW + (id === '' ? '*' : id), `${NOTIFICATION}*`];
      for await (const found of follow(feed, subjects, since, exchange)) {
        if ('gap' in found) await send(uiGap(found.gap));
        else if (wanted.has(found.event.type)) await send(uiEvent(found.event));
      }
    },
  };
}

function uiEvent({ id, type, subject, time, data }: CloudEvent): object {
  const workflow = subject.startsWith(WORKFLOW) ? subject.slice(WORKFLOW.length) : '';
  const payload_json = JSON.stringify(data);
  return { event_type: type, workflow_id: workflow, payload_json, timestamp: time, id };
}

function uiGap(gap: Gap): object {
  const payload_json = JSON.stringify(shown(gap));
  return { event_type: 'gap', payload_json, id: String(gap.until) };
}

function cloudEvent({ data, ...event }: CloudEvent): object {
  return { ...event, data_json: JSON.stringify(data) };
}
