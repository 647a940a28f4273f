/**
 * The parts of a manifest by which the host calls a plugin of itself: event subscriptions and schedules.
 * Their schemas, and the rules between them and the exports.
 */
import { nextCronTime } from './cron.ts';
import type { JsonSchema } from './json.ts';
import type { Manifest, ScheduleSpec } from './manifest.ts';
import { compileSchema } from './schema.ts';
import type { Finding } from './schema-check.ts';

const SUBJECT = '[A-Za-z0-9][A-Za-z0-9._/-]{0,199}';
const MINIMUM_MS = 1000;
const MAXIMUM_MS = 366 * 86_400_000;

const target: JsonSchema = {
  title: 'Export',
  type: 'string',
  minLength: 1,
  maxLength: 64,
  description: 'The name of one of the exports of this manifest.',
};

export const SUBSCRIPTIONS: JsonSchema = {
  title: 'Event subscriptions',
  type: 'array',
  maxItems: 32,
  description:
    'Events that the host delivers to an export, each at least once and in order, at most 32.',
  items: {
    type: 'object',
    description: 'Events of a subject and the export that takes them. It needs a grant.',
    additionalProperties: false,
    required: ['subject', 'export'],
    properties: {
      subject: {
        title: 'Subject',
        type: 'string',
        pattern: `^(${SUBJECT}\\*?|\\*)$`,
        description:
          'A subject of letters, digits and . _ / -, or a prefix that ends in *, for example orders.*.',
      },
      export: target,
    },
  },
};

export const SCHEDULES: JsonSchema = {
  title: 'Schedules',
  type: 'array',
  maxItems: 32,
  description: 'Times at which one host of all calls an export, at most 32.',
  items: {
    type: 'object',
    description: 'A name, an export, and either cron or everyMs.',
    additionalProperties: false,
    required: ['name', 'export'],
    properties: {
      name: {
        title: 'Name',
        type: 'string',
        maxLength: 48,
        pattern: '^[a-z][a-z0-9]*(-[a-z0-9]+)*$',
        description: 'Lower-case words joined by hyphens, for example nightly-report.',
      },
      cron: {
        title: 'Cron',
        type: 'string',
        maxLength: 100,
        pattern: '^[0-9A-Za-z*/,#?+-]+( [0-9A-Za-z*/,#?+-]+){4,5}$',
        description:
          'Minute, hour, day, month and weekday, with seconds before them if need be, for example 0 3 * * *.',
      },
      everyMs: {
        title: 'Interval',
        type: 'integer',
        minimum: MINIMUM_MS,
        maximum: MAXIMUM_MS,
        description: `Milliseconds between two calls, a whole number from ${MINIMUM_MS} to ${MAXIMUM_MS}.`,
      },
      timezone: {
        title: 'Time zone',
        type: 'string',
        minLength: 1,
        maxLength: 64,
        description: 'Of cron, an IANA name, for example Europe/Vienna; UTC when absent.',
      },
      export: target,
      input: { title: 'Input', description: 'The input of each call; null when absent.' },
    },
  },
};

/** What breaks a rule between these parts and the rest of the manifest. */
export function* triggers({ contributes, exports }: Manifest): Generator<Finding> {
  const { subscriptions = [], schedules = [] } = contributes ?? {};
  const seen = new Set<string>();
  const twice = (key: string): boolean => seen.size === seen.add(key).size;
  const known = Object.keys(exports).slice(0, 10).join(', ');
  const noExport = (path: string): Finding => ({
    path: `${path}/export`,
    rule: 'export',
    message: 'names no export of this manifest',
    fix: `Name one of the exports: ${known}.`,
  });
  for (const [i, subscription] of subscriptions.entries()) {
    const path = `/contributes/subscriptions/${i}`;
    if (!Object.hasOwn(exports, subscription.export)) yield noExport(path);
    if (twice(`${subscription.subject} ${subscription.export}`)) {
      const fix = 'Remove one.';
      yield { path, rule: 'duplicate', message: 'is there twice', fix };
    }
    const type = exports[subscription.export]?.input?.['type'];
    if (type !== undefined && ![type].flat().includes('object')) {
      const message = `leads to ${subscription.export}, which takes no object`;
      yield { path, rule: 'input', message, fix: 'Have the export take the event, an object.' };
    }
  }
  for (const [i, schedule] of schedules.entries()) {
    const path = `/contributes/schedules/${i}`;
    if (!Object.hasOwn(exports, schedule.export)) yield noExport(path);
    if (twice(schedule.name)) {
      const message = `has the name of another schedule`;
      yield { path: `${path}/name`, rule: 'duplicate', message, fix: 'Rename one.' };
    }
    yield* times(schedule, path);
  }
}

/** Inputs of schedules that their exports would refuse. The schemas have been found to be sound. */
export function* scheduleInputs({ contributes, exports }: Manifest): Generator<Finding> {
  for (const [i, { export: target, input = null }] of (contributes?.schedules ?? []).entries()) {
    const schema = exports[target]?.input;
    const [broken] = schema === undefined ? [] : compileSchema(schema)(input);
    if (broken === undefined) continue;
    const message = `breaks the input schema of ${target}: ${broken.path} ${broken.message}`;
    const path = `/contributes/schedules/${i}/input`;
    yield { path, rule: 'input', message, fix: 'Correct the input.' };
  }
}

function* times(
  { cron, everyMs, timezone = 'UTC' }: ScheduleSpec,
  path: string,
): Generator<Finding> {
  const fix = 'Write either cron or everyMs.';
  if ((cron === undefined) === (everyMs === undefined)) {
    yield { path, rule: 'schedule', message: 'must have one of cron and everyMs', fix };
  }
  if (cron === undefined) return;
  try {
    if (nextCronTime(cron, timezone, Date.now()) !== null) return;
    yield { path: `${path}/cron`, rule: 'schedule', message: 'names no time to come', fix };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const message = `is not a schedule: ${why.slice(0, 200)}`;
    const example = 'Write five fields and a time zone of IANA, for example 0 3 * * *.';
    yield { path: `${path}/cron`, rule: 'schedule', message, fix: example };
  }
}
