/**
 * GET /v1/events: the event log as a stream of server-sent events, or as pages of JSON. Invariant: the ids
 * are those of the log, the same here, over WebSocket and over gRPC, so a client may change between them.
 */
import { type CloudEvent, type JsonSchema, NoaError } from '@noa/sdk/host';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Gateway } from '../../gateway/gateway.ts';
import { anything, list, object, text } from '../answer-schema.ts';
import { PAGE_PARAMETERS } from '../paging.ts';
import { resource } from '../resource.ts';
import { type Connections, holderOf } from './connections.ts';
import type { EventFeed } from './feed.ts';
import { accepts, frame, SSE_TYPE, SseStream } from './sse.ts';
import { type EventFrames, readId, readSubjects, Subscription } from './subscription.ts';

export const EVENTS_SCOPE = 'events:read';

const SUBJECTS: JsonSchema = {
  type: 'array',
  items: { type: 'string', maxLength: 16_384 },
  maxItems: 64,
  description:
    'Subjects such as `orders.created`, or prefixes such as `orders.*`; repeated, or with commas between them. All when absent.',
};
const SINCE: JsonSchema = {
  type: 'string',
  maxLength: 15,
  description:
    'Only events after the one with this id. When absent a stream begins now, and pages with the oldest event that is kept. `Last-Event-ID` goes before it.',
};

const EVENT: JsonSchema = object<CloudEvent>({
  specversion: { const: '1.0' },
  id: text('Rises from event to event.'),
  source: text('The plugin that published it: `/plugins/orders`.'),
  type: text('What happened.'),
  subject: text('What it is about.'),
  time: { type: 'string', format: 'date-time' },
  datacontenttype: { const: 'application/json' },
  data: anything('What the publisher says of it.'),
});

interface EventsPage {
  readonly events: readonly CloudEvent[];
  readonly next: string | null;
  readonly last: string;
  readonly gap?: { after: string; until: string; missing: number };
}

export interface EventStreamOptions {
  readonly gateway: Gateway;
  readonly feed: EventFeed;
  readonly connections: Connections;
  readonly onError: (message: string, error: unknown) => void;
}

type Query = {
  readonly subjects?: readonly string[];
  readonly since?: string;
  readonly cursor?: string;
  readonly limit: number;
};

const SSE_FRAMES: EventFrames = {
  event: ({ sse }) => sse,
  gap: (gap) => frame('gap', JSON.stringify(shown(gap))),
};

/** Ids are texts, as in an event. */
export function shown({
  after,
  until,
  missing,
}: {
  after: number;
  until: number;
  missing: number;
}) {
  return { after: String(after), until: String(until), missing };
}

export function registerEvents(scope: FastifyInstance, options: EventStreamOptions): void {
  resource(scope, '/v1/events', {
    GET: {
      summary: 'Read or follow the event log',
      description:
        'Answers a page of JSON where `Accept` asks for it and for no stream, else a stream that does not end. `gap` and `event: gap` tell of ids that the log keeps no longer.',
      tag: 'Events',
      scope: EVENTS_SCOPE,
      frames: '`id` is the id of the event, `event` its type, `data` the CloudEvent.',
      answers: {
        200: object<EventsPage>(
          {
            events: list(EVENT, 'Oldest first.'),
            next: {
              type: ['string', 'null'],
              description: 'Cursor of the next page, null after the last.',
            },
            last: text('Everything up to this id has been looked at.'),
            gap: anything('Ids that are kept no longer: `{after, until, missing}`.'),
          },
          { optional: ['gap'] },
        ),
      },
      errors: ['RESOURCE_EXHAUSTED'],
      query: {
        type: 'object',
        additionalProperties: false,
        properties: { ...PAGE_PARAMETERS, subjects: SUBJECTS, since: SINCE },
      },
      run: (request, reply) => {
        const query = request.query as Query;
        const wantsPage = accepts(request, 'application/json') && !accepts(request, SSE_TYPE);
        if (wantsPage || request.method === 'HEAD') return pageOf(options.feed, query);
        return stream(options, query, request, reply);
      },
    },
  });
}

async function pageOf(feed: EventFeed, query: Query): Promise<EventsPage> {
  const { cursor, since = cursor ?? '0', limit } = query;
  const subjects = readSubjects(query.subjects ?? []);
  const { events, next, gap } = await feed.read(readId('since', cursor ?? since), subjects, limit);
  const isCut = Number(events.at(-1)?.id) === next;
  const more = isCut && next < (await feed.head());
  return {
    events,
    next: more ? String(next) : null,
    last: String(next),
    ...(gap && { gap: shown(gap) }),
  };
}

async function stream(
  { connections, feed, gateway, onError }: EventStreamOptions,
  query: Query,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> {
  const subjects = readSubjects(query.subjects ?? []);
  const given = request.headers['last-event-id'] ?? query.cursor ?? query.since;
  const since = given === undefined || given === '' ? undefined : readId('since', String(given));
  const holder = holderOf(gateway, request, EVENTS_SCOPE);
  connections.assertRoom(holder.subject);
  const subscription = new Subscription({ feed, subjects, since });
  await subscription.open();
  if (request.exchange.signal.aborted) {
    subscription.end();
    return void reply.hijack();
  }
  try {
    const closed = (): void => subscription.end();
    connections.assertRoom(holder.subject); // again: others have come meanwhile
    const connection = new SseStream(connections, holder, reply, { retry: true, closed });
    subscription.run({ connection, frames: SSE_FRAMES }).catch((error: unknown) => {
      onError('an event stream was ended', error);
      connection.end(asUnavailable(error));
    });
  } catch (error) {
    subscription.end();
    throw error;
  }
}

function asUnavailable(cause: unknown): NoaError {
  return new NoaError('UNAVAILABLE', 'the event log cannot be read now: connect again', { cause });
}
