/** `gateway.policies`: rules over who may do what, when and from where. gateway/policy.ts says what they mean. */
import { isIP } from 'node:net';
import type { JsonSchema } from '@noa/sdk/host';
import type { PolicyRule } from '../gateway/settings.ts';
import { tables } from './tables.ts';

const list = (items: JsonSchema): JsonSchema => ({
  type: 'array',
  minItems: 1,
  maxItems: 256,
  items,
});
const oneOf = (...names: string[]): JsonSchema => ({ type: 'string', enum: names });
/** An exact text, or a beginning and `*`. */
const patterns = list({
  type: 'string',
  pattern: '^[^*]{0,255}([^*]|\\*)$',
  description: 'an exact text, or its beginning and one * at the end',
});
const names = list({ type: 'string', minLength: 1, maxLength: 64 });
const addresses = list({ type: 'string', maxLength: 64 });
const time: JsonSchema = {
  type: 'string',
  pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$',
  description: 'a time as HH:MM, from 00:00 to 23:59',
};
const object = (properties: { readonly [name: string]: JsonSchema }): JsonSchema => ({
  type: 'object',
  additionalProperties: false,
  minProperties: 1,
  properties,
});
const WHO = { subjects: patterns, roles: names, scopes: names };

const POLICY: JsonSchema = {
  ...object({
    name: {
      type: 'string',
      pattern: '^[a-z][a-z0-9-]{0,63}$',
      description: 'lower-case letters, digits and hyphens, a letter first, at most 64',
    },
    effect: oneOf('allow', 'deny'),
    operations: patterns,
    ...WHO,
    not: object(WHO),
    when: {
      ...object({
        addresses,
        not_addresses: addresses,
        transports: list(oneOf('http', 'grpc', 'websocket')),
        client_certificate: { type: 'boolean' },
        weekdays: list(oneOf('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')),
        from: time,
        until: time,
        zone: { type: 'string', maxLength: 64 },
      }),
      dependentRequired: { from: ['until'], until: ['from'] },
    },
  }),
  required: ['name', 'effect'],
};

export const policies = tables<PolicyRule>(
  POLICY,
  {
    reloadable: true,
    description:
      'Rules over calls, by their operations: `name`, `effect` (allow or deny), and if wanted `operations`, `subjects`, `roles`, `scopes`, `not`, `when`. A deny rule that applies refuses the call. host/transports/README.md explains them.',
  },
  ['name'],
  broken,
);

/** What a JSON Schema cannot say; undefined when the rule is sound. */
function broken({
  operations = [],
  when = {},
}: PolicyRule): [path: string, rule: string] | undefined {
  for (const [index, operation] of operations.entries()) {
    // A slip here would be a rule that never applies, and nobody would know.
    if (!isOperation(operation)) {
      const forms = '"METHOD /path" (HEAD counts as GET) or "package.Service/Method"';
      const rule = `${operation} names no operation: write ${forms}, or its beginning and *`;
      return [`/operations/${index}`, rule];
    }
  }
  for (const name of ['addresses', 'not_addresses'] as const) {
    const wrong = when[name]?.find((network) => !isNetwork(network));
    if (wrong !== undefined) {
      return [`/when/${name}`, `${wrong} is no address and no network (CIDR)`];
    }
  }
  if (when.zone !== undefined && !isZone(when.zone)) {
    return ['/when/zone', `${when.zone} is no time zone of the IANA database`];
  }
  return undefined;
}

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];

/** Whether there can be an operation that a pattern covers, whatever is installed. */
function isOperation(pattern: string): boolean {
  if (!pattern.endsWith('*')) {
    const isCall = METHODS.some((method) => pattern.startsWith(`${method} /`));
    return isCall || /^[a-z]\w*(\.\w+)+\/\w+$/.test(pattern);
  }
  const beginning = pattern.slice(0, -1);
  const isOfCalls = METHODS.some(
    (method) => `${method} /`.startsWith(beginning) || beginning.startsWith(`${method} /`),
  );
  return isOfCalls || /^[a-z][\w.]*(\/\w*)?$/.test(beginning);
}

function isNetwork(text: string): boolean {
  const [, address = '', bits] = /^([^/%]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const version = isIP(address);
  return version !== 0 && (bits === undefined || Number(bits) <= (version === 4 ? 32 : 128));
}

function isZone(zone: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: zone }).format();
    return true;
  } catch {
    return false;
  }
}
