/**
 * The ports of handlers that run natively, in a test or as a native plugin, over an asynchronous door.
 * They write the same requests as the ports inside the sandbox (guest/context.ts), whose door is not.
 */
import { type InvokeParts, inferencePort, vectorPort } from './inference-port.ts';
import type { Cache, CallBudget, Capabilities, Db, Emit, PluginPort } from './ports.ts';
import { blobPort, eventsPort, httpPort, type InvokeBytes, secretsPort } from './storage-ports.ts';

/** Calls an operation through the door and resolves with its value; bytes are base64 in both. */
export type InvokeDoor = (capability: string, operation: string, args: object) => Promise<unknown>;

export function makePorts(door: InvokeDoor): Capabilities & { readonly emit: Emit } {
  const invoke = async <Value>(
    capability: string,
    operation: string,
    args: object,
  ): Promise<Value> => (await door(capability, operation, args)) as Value;
  const invokeBytes: InvokeBytes = async <Value>(
    capability: string,
    operation: string,
    args: object,
    member: string,
    bytes?: Uint8Array,
  ) => {
    const given = bytes && { [member]: Buffer.from(bytes).toString('base64') };
    const value = await invoke<Value & object>(capability, operation, { ...args, ...given });
    const held: unknown = Reflect.get(value, member);
    if (typeof held !== 'string') return { value };
    return { value, bytes: new Uint8Array(Buffer.from(held, 'base64')) };
  };
  const invokeParts: InvokeParts = async <Value>(
    capability: string,
    operation: string,
    args: Parameters<InvokeParts>[2],
  ) => {
    const place = (bytes: Uint8Array): string =>
      Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64');
    const bytesOf = (member: unknown) =>
      new Uint8Array(Buffer.from(typeof member === 'string' ? member : '', 'base64'));
    return { value: await invoke<Value>(capability, operation, args({ place })), bytesOf };
  };
  const db: Db = {
    query: async <Row>(sql: string, params: readonly unknown[] = []) =>
      (await invoke<{ rows: Row[] }>('db', 'query', { sql, params })).rows,
    execute: (sql, params = []) => invoke('db', 'execute', { sql, params }),
    transaction: async (statements) =>
      (
        await invoke<{ results: Awaited<ReturnType<Db['transaction']>> }>('db', 'transaction', {
          statements,
        })
      ).results,
  };
  const cache: Cache = {
    get: async <Value>(key: string) =>
      (await invoke<{ value: Value | null }>('cache', 'get', { key })).value,
    set: async (key, value, options = {}) => {
      await invoke('cache', 'set', { key, value: value ?? null, ...options });
    },
    delete: async (key) => (await invoke<{ deleted: boolean }>('cache', 'delete', { key })).deleted,
    increment: async (key, by = 1, options = {}) =>
      (await invoke<{ value: number }>('cache', 'increment', { key, by, ...options })).value,
    lock: async (key, { ttlMs }) => {
      const { token } = await invoke<{ token?: string }>('cache', 'lock', { key, ttlMs });
      if (token === undefined) return null;
      const release = async (): Promise<boolean> =>
        (await invoke<{ released: boolean }>('cache', 'lock', { key, release: token })).released;
      return { release };
    },
  };
  const plugin: PluginPort = {
    call: async <Output>(
      name: string,
      exportName: string,
      input: unknown = null,
      options: { readonly budget?: CallBudget } = {},
    ) => {
      const args = { plugin: name, export: exportName, input, ...options };
      return (await invoke<{ output: Output }>('plugin', 'call', args)).output;
    },
  };
  const blob = blobPort(invoke, invokeBytes, (bytes) => Buffer.from(bytes).toString());
  return {
    db,
    cache,
    blob,
    secrets: secretsPort(invoke),
    http: httpPort(invokeBytes),
    events: eventsPort(invoke),
    plugin,
    inference: inferencePort(invokeParts),
    vector: vectorPort(invokeParts),
    emit: async (value) => {
      await invoke('stream', 'emit', { value: value ?? null });
    },
  };
}
