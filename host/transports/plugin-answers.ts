/** What is answered about plugins and what is kept beside them, as JSON Schemas. */
import { type CloudEvent, ERROR_KINDS, type JsonSchema } from '@noa/sdk/host';
import type { ConfigurationView } from '../kernel/configuration.ts';
import type { RetryReport } from '../kernel/dead-letters.ts';
import type { DeadLetter } from '../kernel/events.ts';
import type { HealthView } from '../kernel/health.ts';
import { TRANSITIONS } from '../kernel/lifecycle.ts';
import type { HookView } from '../kernel/hooks.ts';
import type { SubscriptionView } from '../kernel/subscriptions.ts';
import type { PluginDetail, PluginView, RequestView } from '../kernel/views.ts';
import type { LogLine, LogPage } from './admin-plugins.ts';
import {
  anything,
  count,
  flag,
  list,
  numeral,
  object,
  oneOf,
  orNull,
  page,
  sha256,
  text,
  time,
} from './answer-schema.ts';

export const GRANT_STATUS = oneOf(['pending', 'approved', 'revoked']);
export const OPERATIONS = list(text(), 'Operations of the capability.');
export const RESOURCES = list(text(), 'Exact names, or prefixes that end in `*`.');

const DIGEST = sha256('SHA-256 of the bundle.');
const STATE = oneOf(Object.keys(TRANSITIONS), 'Where the plugin stands in its life.');
const REASON = orNull(text('Why the plugin stands where it stands.'));
const ISOLATION = orNull(
  oneOf(
    ['thread', 'process', 'native', 'builtin'],
    'Where its code runs in this host; null while it does not.',
  ),
);
const RESTARTS = count('Starts after a failure, since the host began.');

const REQUEST: JsonSchema = object<RequestView>(
  {
    grant: orNull(text('Id of the grant that answers the request.')),
    capability: text(),
    operations: OPERATIONS,
    resources: RESOURCES,
    optional: flag('The plugin serves without it.'),
    reason: text("The author's words."),
    status: GRANT_STATUS,
  },
  { title: 'CapabilityRequest' },
);

const VIEW = {
  name: text(),
  version: text('The version that serves, or will once it may.'),
  digest: DIGEST,
  state: STATE,
  enabled: flag(),
  pinned: flag('It keeps its version until it is unpinned.'),
  reason: REASON,
  candidate: orNull(
    object<NonNullable<PluginView['candidate']>>({
      version: text(),
      digest: DIGEST,
      reason: text('Why it waits.'),
    }),
  ),
  requested: list(REQUEST, 'The capabilities that the plugin asks for.'),
};

export const PLUGIN = object<PluginView>(VIEW, { title: 'Plugin' });

export const PLUGIN_DETAIL = object<PluginDetail>(
  {
    ...VIEW,
    manifest: { type: 'object', description: 'plugin.json of this version.' },
    routes: list(text('Method and path.')),
    grpc: list(text('`service/method`.')),
    subscriptions: list(
      object<SubscriptionView>({
        subject: text('Exact, or a prefix that ends in `*`.'),
        export: text(),
        undelivered: orNull(text('Why no events are delivered, and what changes that.')),
      }),
    ),
    hooks: list(
      object<HookView>(
        {
          on: text('`beforeRequest` or `afterResponse`.'),
          export: text(),
          operations: list(text('Exact, or a prefix that ends in `*`.')),
          order: { type: 'integer' },
          failOpen: flag('Requests go on while it fails; else they are refused.'),
          inactive: orNull(text('Why it is not called for all of them, and what changes that.')),
        },
        { optional: ['order', 'failOpen'] },
      ),
    ),
    versions: list(
      object<PluginDetail['versions'][number]>({
        version: text(),
        digest: DIGEST,
        installedAt: time(),
      }),
      'Newest first.',
    ),
    instances: count(),
    memoryBytes: count(),
    isolation: ISOLATION,
    restarts: RESTARTS,
  },
  { title: 'PluginDetail' },
);

export const PLUGINS = page('plugins', PLUGIN);

const MILLISECONDS = orNull({
  type: 'number',
  description: 'Milliseconds; null without a call.',
});

export const PLUGIN_HEALTH = object<HealthView>(
  {
    name: text(),
    version: text(),
    state: STATE,
    reason: REASON,
    restarts: RESTARTS,
    instances: count(),
    memoryBytes: count(),
    isolation: ISOLATION,
    lastMinute: object<HealthView['lastMinute']>({
      calls: count(),
      failures: count("Those that ended by the plugin's own fault."),
      p50Ms: MILLISECONDS,
      p95Ms: MILLISECONDS,
    }),
    lastError: orNull(
      object<NonNullable<HealthView['lastError']>>({
        at: time(),
        export: text(),
        code: oneOf(Object.keys(ERROR_KINDS)),
        message: text(),
      }),
    ),
    droppedLogLines: count('Log lines that were not kept since the start of the host.'),
  },
  { title: 'PluginHealth' },
);

export const LOGS = object<LogPage>(
  {
    lines: list(
      object<LogLine>({
        seq: count('Rises by one with every line of the plugin.'),
        timestamp: time(),
        level: text(),
        message: text(),
      }),
    ),
    next: count('What `since` is to be next.'),
  },
  { title: 'LogPage' },
);

const SCHEMA = orNull({ type: 'object', description: 'JSON Schema of the settings.' });

export const CONFIGURATION = object<ConfigurationView>(
  {
    plugin: text(),
    version: count('0 while nothing is set; rises by one with every change.'),
    settings: anything('As they were set; a secret value is shown as `{"$secret": "set"}`.'),
    schema: SCHEMA,
    candidate: orNull(
      object<NonNullable<ConfigurationView['candidate']>>({ version: text(), schema: SCHEMA }),
    ),
    updatedAt: orNull(time()),
  },
  { title: 'PluginConfiguration' },
);

const EVENT = object<CloudEvent>(
  {
    specversion: { type: 'string', const: '1.0' },
    id: numeral('Rises with every event of all hosts, in the order in which they are seen.'),
    source: text('`/plugins/<name>` of the publisher.'),
    type: text(),
    subject: text(),
    time: time(),
    datacontenttype: { type: 'string', const: 'application/json' },
    data: anything(),
  },
  { title: 'CloudEvent' },
);

const LETTER = object<DeadLetter>(
  {
    id: numeral(),
    plugin: text(),
    subject: text(),
    export: text('Where the event was to go.'),
    event: EVENT,
    attempts: count(),
    code: text(),
    reason: text('Why the last attempt failed.'),
    failedAt: time(),
  },
  { title: 'DeadLetter' },
);

export const LETTERS = page('letters', LETTER);

export const RETRIED = object<RetryReport>(
  {
    delivered: count(),
    failed: list(LETTER, 'These stay, with the new reason.'),
    more: flag('There was no room for all: ask again.'),
  },
  { title: 'RetryReport' },
);

export const DROPPED = object<{ dropped: number }>({
  dropped: count('Letters that were dropped.'),
});
