/**
 * The one way from a plugin under test to its fakes. It decides as the host's door does: what the
 * manifest did not ask for, or the test denies, is CAPABILITY_DENIED.
 */
import { covers } from '../capability.ts';
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import type { CapabilityRequest, Manifest } from '../manifest.ts';
import { FakeEvents } from './fake-events.ts';
import { FakeModels } from './fake-models.ts';
import { FakeVectors } from './fake-vectors.ts';
import { FakeHttp, httpResource } from './fake-http.ts';
import { FakeBlob, FakeSecrets, prefixOf } from './fake-storage.ts';
import { FakeCache, FakeDb, FakePlugins, copy, isObject, text } from './fakes.ts';

/** One capability call of the plugin, whether it was allowed or not. */
export interface CapabilityCall {
  readonly capability: string;
  readonly operation: string;
  readonly arguments: Json;
}

export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields?: Json;
}

export class FakeDoor {
  readonly db: FakeDb = new FakeDb();
  readonly cache: FakeCache;
  readonly blob: FakeBlob;
  readonly secrets: FakeSecrets = new FakeSecrets();
  readonly http: FakeHttp = new FakeHttp();
  readonly events: FakeEvents;
  readonly models: FakeModels;
  readonly vectors: FakeVectors = new FakeVectors();
  readonly plugin: FakePlugins = new FakePlugins();
  readonly calls: CapabilityCall[] = [];
  readonly lines: LogLine[] = [];
  readonly emitted: Json[] = [];
  readonly #requests: readonly CapabilityRequest[];
  readonly #denied = new Set<string>();

  constructor(manifest: Manifest, now: () => number) {
    this.cache = new FakeCache(now);
    this.blob = new FakeBlob(now);
    this.events = new FakeEvents(manifest.name, now);
    this.models = new FakeModels();
    this.#requests = manifest.capabilities ?? [];
  }

  /** Refuses `db` or `db.execute` from now on, as when an administrator revokes the grant. */
  deny(right: string): void {
    this.#denied.add(right);
  }

  /** Takes a denial back. */
  allow(right: string): void {
    this.#denied.delete(right);
  }

  async invoke(capability: string, operation: string, input: unknown): Promise<Json> {
    const args = copy(input);
    const fields = isObject(args) ? args : {};
    if (capability === 'log' && operation === 'write') {
      const line = { level: text(fields, 'level'), message: text(fields, 'message') };
      this.write(fields['fields'] === undefined ? line : { ...line, fields: fields['fields'] });
      return {};
    }
    if (capability === 'stream' && operation !== 'emit') {
      return this.models.read(operation, text(fields, 'stream'));
    }
    if (capability === 'stream' && operation === 'emit') {
      this.emitted.push(fields['value'] ?? null);
      return {};
    }
    this.calls.push({ capability, operation, arguments: args });
    this.#judge(capability, operation, fields);
    if (capability === 'db') return copy(this.db.invoke(operation, fields));
    if (capability === 'cache') return copy(this.cache.invoke(operation, fields));
    if (capability === 'blob') return copy(this.blob.invoke(operation, fields));
    if (capability === 'secrets') return this.secrets.invoke(operation, fields);
    if (capability === 'http') return this.http.invoke(operation, fields);
    if (capability === 'events') return this.events.invoke(operation, fields);
    if (capability === 'plugin') return this.plugin.invoke(operation, fields);
    if (capability === 'vector') return copy(this.vectors.invoke(operation, fields));
    if (capability === 'inference') return copy(this.models.invoke(operation, fields));
    throw new NoaError(
      'INVALID_ARGUMENT',
      `the test host has no capability ${JSON.stringify(capability)}`,
    );
  }

  /** Keeps a line that the plugin logged. */
  write(line: LogLine): void {
    this.lines.push(line);
  }

  #judge(capability: string, operation: string, args: { readonly [name: string]: Json }): void {
    const right = `${capability}.${operation}`;
    if (this.#denied.has(capability) || this.#denied.has(right)) {
      throw new NoaError('CAPABILITY_DENIED', `${right} is not granted`);
    }
    const asked = this.#requests.filter(
      (request) => request.capability === capability && request.operations.includes(operation),
    );
    const resource = resourceOf(capability, operation, args);
    const written = asked.flatMap(({ resources }) => resources);
    const patterns = capability === 'http' ? written.map(httpResource) : written;
    if (
      asked.length === 0 ||
      (resource !== undefined && !patterns.some((p) => covers(p, resource)))
    ) {
      const on = resource === undefined ? '' : ` on ${resource}`;
      throw new NoaError('CAPABILITY_DENIED', `${right}${on} is not requested in plugin.json`);
    }
  }
}

/** What the call touches; undefined for SQL, which only a database can tell. */
function resourceOf(
  capability: string,
  operation: string,
  args: { readonly [name: string]: Json },
): string | undefined {
  if (capability === 'blob') {
    return operation === 'list' ? `${prefixOf(args)}*` : text(args, 'path');
  }
  if (capability === 'secrets') return text(args, 'name');
  if (capability === 'http') return httpResource(`${text(args, 'method')} ${text(args, 'url')}`);
  if (capability === 'cache') return text(args, 'key');
  if (capability === 'events') return text(args, 'subject');
  if (capability === 'vector') {
    const { collection, alias } = args;
    return [collection, alias].find((name) => typeof name === 'string');
  }
  if (capability === 'inference') return operation === 'models' ? undefined : text(args, 'model');
  return capability === 'plugin' ? `${text(args, 'plugin')}/${text(args, 'export')}` : undefined;
}
