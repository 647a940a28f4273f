/** `gateway.policies`: rules over who may do what, when and from where. gateway/policy.ts says what they mean. */
import { isIP } from 'node:net';
import type { JsonSchema } from '@noa/sdk/host';
import type { Key } from './kinds.ts';
import { tables } from './tables.ts';

export interface PolicyConfig {
  readonly name: string;
  readonly effect: 'allow' | 'deny';
  readonly operations?: readonly string[];
  readonly subjects?: readonly string[];
  readonly roles?: readonly string[];
  readonly scopes?: readonly string[];
  readonly not?: {
    readonly subjects?: readonly string[];
    readonly roles?: readonly string[];
    readonly scopes?: readonly string[];
  };
  readonly when?: {
    readonly addresses?: readonly string[];
    readonly not_addresses?: readonly string[];
    readonly transports?: readonly ('http' | 'grpc' | 'websocket')[];
    readonly client_certificate?: boolean;
    readonly weekdays?: readonly Weekday[];
    readonly from?: string;
    readonly until?: string;
    readonly zone?: string;
  };
}

type Weekday = 'mon' | 'tue' | 'wed' | 'thu' | 'fri' | 'sat' | 'sun';

const list = (items: JsonSchema): JsonSchema => ({
  type: 'array',
  minItems: 1,
  maxItems: 256,
  items,
});
const oneOf = (...names: string[]): JsonSchema => ({ type: 'string', enum: names });
/** An exact text, or a beginning and `*`. */
const patterns = list({ type: 'string', pattern: '^[^*]{0,255}([^*]|\\*)$' });
const names = list({ type: 'string', minLength: 1, maxLength: 64 });
const addresses = list({ type: 'string', maxLength: 64 });
const time: JsonSchema = { type: 'string', pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$' };
const object = (properties: { readonly [name: string]: JsonSchema }): JsonSchema => ({
  type: 'object',
  additionalProperties: false,
  minProperties: 1,
  properties,
});
const WHO = { subjects: patterns, roles: names, scopes: names };

const POLICY: JsonSchema = {
  ...object({
    name: { type: 'string', pattern: '^[a-z][a-z0-9-]{0,63}$' },
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

const base = tables<PolicyConfig>(
  POLICY,
  {
    reloadable: true,
    description:
      'Rules over calls, by their operations: `name`, `effect` (allow or deny), and if wanted `operations`, `subjects`, `roles`, `scopes`, `not`, `when`. A deny rule that applies refuses the call. host/transports/README.md explains them.',
  },
  ['name'],
);

/** What a JSON Schema cannot say: networks and time zones are such. */
export const policies: Key<readonly PolicyConfig[] | undefined> = {
  ...base,
  read: (value, cwd) => {
    const rules = base.read(value, cwd);
    return rules === undefined || faultOf(rules) !== undefined ? undefined : rules;
  },
  fault: (value) => base.fault?.(value) ?? faultOf(base.read(value, '') ?? []),
};

function faultOf(rules: readonly PolicyConfig[]): string | undefined {
  for (const [index, { when = {} }] of rules.entries()) {
    const at = `/${index}/when`;
    for (const name of ['addresses', 'not_addresses'] as const) {
      const wrong = when[name]?.find((network) => !isNetwork(network));
      if (wrong !== undefined) return `${at}/${name} ${wrong} is no address and no network (CIDR)`;
    }
    if (when.zone !== undefined && !isZone(when.zone)) {
      return `${at}/zone ${when.zone} is no time zone of the IANA database`;
    }
  }
  return undefined;
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
