/** The one list of built-in capabilities: a new one is a folder in capabilities/ and a line here. */
import type { Capability, Driver, JsonSchema } from '@noa/sdk/host';
import { blob } from '../capabilities/blob/capability.ts';
import { cache } from '../capabilities/cache/capability.ts';
import { clock } from '../capabilities/clock/capability.ts';
import { db } from '../capabilities/db/capability.ts';
import { gateway } from '../capabilities/gateway/capability.ts';
import { events } from '../capabilities/events/capability.ts';
import { inference } from '../capabilities/inference/capability.ts';
import { http } from '../capabilities/http/capability.ts';
import { log } from '../capabilities/log/capability.ts';
import { plugin } from '../capabilities/plugin/capability.ts';
import { random } from '../capabilities/random/capability.ts';
import { secrets } from '../capabilities/secrets/capability.ts';
import { stream } from '../capabilities/stream/capability.ts';
import { vector } from '../capabilities/vector/capability.ts';
import type { CapabilityEntry } from './kernel/broker.ts';
import { bytesTable } from './loaders/wasm/attachment.ts';

const CAPABILITIES = {
  db,
  cache,
  blob,
  secrets,
  http,
  events,
  inference,
  vector,
  gateway,
  plugin,
  log,
  clock,
  random,
  stream,
} as const;

/** What plugins can be given in a host of this version. */
export const builtinContracts: readonly Capability[] = Object.values(CAPABILITIES);

/** Where guests may put bytes beside a call's JSON. */
export const builtinBytes = bytesTable(builtinContracts);

/** The driver of each capability, chosen by configuration in main.ts. */
export type Drivers = { readonly [name in keyof typeof CAPABILITIES]: Driver };

export function builtinCapabilities(drivers: Drivers): readonly CapabilityEntry[] {
  return [
    { capability: db, driver: drivers.db },
    { capability: cache, driver: drivers.cache },
    { capability: blob, driver: drivers.blob },
    { capability: secrets, driver: drivers.secrets },
    { capability: http, driver: drivers.http },
    { capability: events, driver: drivers.events },
    { capability: inference, driver: drivers.inference },
    { capability: vector, driver: drivers.vector },
    { capability: gateway, driver: drivers.gateway },
    { capability: plugin, driver: drivers.plugin },
    { capability: log, driver: drivers.log },
    { capability: clock, driver: drivers.clock },
    { capability: random, driver: drivers.random },
    { capability: stream, driver: drivers.stream },
  ];
}

/** capabilities/README.md, made from the operation tables. */
export function capabilitiesReference(): string {
  return `# Capabilities

<!-- Generated from the operation tables by \`node .ci/references.ts\`; a test keeps it current. -->

What a plugin can reach, and how a manifest asks for it. A resource is written as an exact name or as a
prefix that ends in \`*\`. Every call goes through one door: token, right, budget, schema, driver, audit.
${builtinContracts.map(section).join('')}`;
}

function section({ name, summary, resource, always, operations }: Capability): string {
  const grant = always
    ? `Open to every plugin without a grant, at most ${always.ratePerSecond} calls a second.`
    : `Resource: ${resource}.`;
  const rows = Object.entries(operations).map(
    ([operation, spec]) =>
      `| \`${operation}\` | ${spec.summary.replaceAll('|', '\\|')} | ${members(spec.input)} | ${members(spec.output)} |`,
  );
  return `
## ${name}

${summary.replace(/\.$/, '')}. ${grant}

| operation | does | arguments | answer |
| --- | --- | --- | --- |
${rows.join('\n')}
`;
}

/** The members of an object schema; `?` marks one that may be absent. */
function members(schema: JsonSchema): string {
  const { properties, required, oneOf, anyOf } = schema;
  const choices = oneOf ?? anyOf;
  if (Array.isArray(choices)) return choices.map((each: JsonSchema) => members(each)).join(' or ');
  if (typeof properties !== 'object' || properties === null) return '`{}`';
  const must: readonly unknown[] = Array.isArray(required) ? required : [];
  const names = Object.keys(properties).map((key) => (must.includes(key) ? key : `${key}?`));
  return `\`{${names.join(', ')}}\``;
}
