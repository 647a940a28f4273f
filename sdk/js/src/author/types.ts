/** Writes `src/noa.gen.ts`: the types that connect a plugin's handlers with its manifest. */
import { NoaError } from '../errors.ts';
import type { CapabilityRequest, Manifest } from '../manifest.ts';
import type { Capabilities } from '../ports.ts';
import { TypeWriter } from './schema-types.ts';

/** The ports that a plugin may ask for, with their operations. */
export const PORTS: {
  readonly [Port in keyof Capabilities]: readonly string[];
} = {
  db: ['query', 'execute', 'transaction'],
  cache: ['get', 'set', 'delete', 'increment', 'lock'],
  blob: ['read', 'write', 'list', 'delete'],
  secrets: ['read'],
  http: ['request'],
  events: ['publish', 'subscribe'],
  plugin: ['call'],
  inference: ['embed', 'rerank', 'classify', 'generate', 'run', 'tokenize', 'models', 'manage'],
  vector: ['manage', 'upsert', 'search', 'scroll', 'delete'],
};
/** Of operations whose method does not simply have their name. */
const METHODS: { readonly [operation: string]: readonly string[] } = {
  'blob.read': ['read', 'readText'],
  'inference.generate': ['generate', 'stream'],
  'vector.manage': ['create', 'delete', 'list', 'describe', 'alias', 'unalias'],
  'vector.delete': ['deletePoints'],
};
const INTERFACES: { readonly [Port in keyof Capabilities]: string } = {
  db: 'Db',
  cache: 'Cache',
  blob: 'BlobPort',
  secrets: 'Secrets',
  http: 'Http',
  events: 'EventsPort',
  plugin: 'PluginPort',
  inference: 'Inference',
  vector: 'VectorPort',
};

/**
 * The text of `src/noa.gen.ts`: a type for each input, output and the configuration, and `Plugin`, which
 * `definePlugin<Plugin>` takes. The same manifest gives the same text. Throws NoaError INVALID_ARGUMENT
 * when the manifest asks for a capability or operation that has no port.
 */
export function generateTypes(manifest: Manifest): string {
  const types = new TypeWriter();
  const exports = Object.entries(manifest.exports).map(([name, { input, output, stream }]) => {
    const prefix = name.charAt(0).toUpperCase() + name.slice(1);
    const from =
      input === undefined ? absent(manifest, name) : types.declare(`${prefix}Input`, input, 'Json');
    const to =
      output === undefined ? 'unknown' : types.declare(`${prefix}Output`, output, 'unknown');
    return `    ${name}(input: ${from}${stream ? ', emit: Emit' : ''}): ${to};`;
  });
  const config =
    manifest.config === undefined ? '{}' : types.declare('Config', manifest.config, 'Json', true);
  const ports = requestedPorts(manifest.capabilities ?? []);
  const capabilities = ports.map(({ port, operations }) => {
    const methods = operations.flatMap(
      (operation) => METHODS[`${port}.${operation}`] ?? [operation],
    );
    const union = methods.map((method) => `'${method}'`).join(' | ');
    return `    ${port}: Pick<${INTERFACES[port]}, ${union}>;`;
  });
  const body = [
    types.text(),
    'export interface Plugin {',
    '  exports: {',
    ...exports,
    '  };',
    `  config: ${config};`,
    ...(capabilities.length === 0
      ? ['  capabilities: {};']
      : ['  capabilities: {', ...capabilities, '  };']),
    '}',
    '',
  ].join('\n');
  const imports = ports.map(({ port }) => INTERFACES[port]);
  if (/, emit: Emit\)/.test(body)) imports.push('Emit');
  if (/\bJson\b/.test(body)) imports.push('Json');
  if (/: CloudEvent\b/.test(body)) imports.push('CloudEvent');
  const from =
    imports.length === 0
      ? ''
      : `import type { ${imports.toSorted().join(', ')} } from '@noa/sdk';\n\n`;
  return `// Written by \`noa plugin types\` from plugin.json; changes are lost.\n${from}${body.trimStart()}`;
}

/** The input of an export without a schema of it: the event when only events reach it. */
function absent({ contributes }: Manifest, name: string): string {
  const takes = ({ export: target }: { readonly export: string }): boolean => target === name;
  const { subscriptions = [], schedules = [], routes = [] } = contributes ?? {};
  return subscriptions.some(takes) && ![...schedules, ...routes].some(takes)
    ? 'CloudEvent'
    : 'Json';
}

interface RequestedPort {
  readonly port: keyof Capabilities;
  readonly operations: readonly string[];
}

function requestedPorts(requests: readonly CapabilityRequest[]): RequestedPort[] {
  for (const [i, { capability, operations }] of requests.entries()) {
    if (capability === 'gateway') continue; // the host calls, not the plugin
    const ports = Object.entries<readonly string[]>(PORTS);
    const known = ports.find(([port]) => port === capability)?.[1];
    if (known === undefined) {
      throw noPort(`/capabilities/${i}/capability`, capability, Object.keys(PORTS));
    }
    const missing = operations.find((operation) => !known.includes(operation));
    if (missing !== undefined) throw noPort(`/capabilities/${i}/operations`, missing, known);
  }
  return (Object.keys(PORTS) as (keyof Capabilities)[]).flatMap((port) => {
    const asked = requests.filter(({ capability }) => capability === port);
    const wanted = new Set(asked.flatMap(({ operations }) => operations));
    const operations = PORTS[port].filter((operation) => wanted.has(operation));
    return operations.length === 0 ? [] : [{ port, operations }];
  });
}

function noPort(path: string, name: string, known: readonly string[]): NoaError {
  const open = ['log', 'clock', 'random', 'stream'].includes(name)
    ? 'is open to every plugin; remove the request'
    : `has no port in this SDK; it has ${known.join(', ')}`;
  return new NoaError('INVALID_ARGUMENT', `${path}: ${JSON.stringify(name)} ${open}`);
}
