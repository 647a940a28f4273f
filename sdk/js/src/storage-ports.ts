/**
 * The ports `blob`, `events`, `http` and `secrets` over any way of calling a capability: inside the sandbox and in a
 * test of natively run handlers they are the same.
 */
import type { BlobPort, EventsPort, Http, HttpAnswer, Secrets } from './ports.ts';

type Invoke = <Value>(
  capability: string,
  operation: string,
  args: object,
) => Value | Promise<Value>;

/** A call whose arguments and value may both have bytes, in the member of this name. */
export type InvokeBytes = <Value>(
  capability: string,
  operation: string,
  args: object,
  member: string,
  bytes?: Uint8Array,
) => Answered<Value> | Promise<Answered<Value>>;

export interface Answered<Value> {
  readonly value: Value;
  /** What the member held; absent when the value has none. */
  readonly bytes?: Uint8Array<ArrayBuffer> | undefined;
}

export function blobPort(
  invoke: Invoke,
  invokeBytes: InvokeBytes,
  toText: (bytes: Uint8Array) => string,
): BlobPort {
  const read: BlobPort['read'] = async (path, options = {}) => {
    const { bytes } = await invokeBytes('blob', 'read', { path, ...options }, 'base64');
    return bytes ?? new Uint8Array();
  };
  return {
    read,
    readText: async (path) => toText(await read(path)),
    write: async (path, content, options = {}) => {
      const args = { path, ...options };
      if (typeof content === 'string') return invoke('blob', 'write', { ...args, text: content });
      const { value } = await invokeBytes<{ etag: string; size: number }>(
        'blob',
        'write',
        args,
        'base64',
        content,
      );
      return value;
    },
    list: async (options = {}) => invoke('blob', 'list', options),
    delete: async (path) => {
      return (await invoke<{ deleted: boolean }>('blob', 'delete', { path })).deleted;
    },
  };
}

export function httpPort(invokeBytes: InvokeBytes): Http {
  return {
    request: async ({ body, ...request }) => {
      const [args, content] =
        body instanceof Uint8Array ? [request, body] : [{ ...request, body }, undefined];
      const member = 'bodyBase64';
      const answered = await invokeBytes<HttpAnswer>('http', 'request', args, member, content);
      const { [member]: _, ...answer }: HttpAnswer & { bodyBase64?: unknown } = answered.value;
      return { ...answer, ...(answered.bytes && { bytes: answered.bytes }) };
    },
  };
}

export function secretsPort(invoke: Invoke): Secrets {
  return {
    read: async (name) => (await invoke<{ value: string }>('secrets', 'read', { name })).value,
  };
}

export function eventsPort(invoke: Invoke): EventsPort {
  return {
    publish: async (subject, type, data = null) =>
      invoke('events', 'publish', { subject, type, data }),
    subscribe: async (subject, options = {}) =>
      invoke('events', 'subscribe', { subject, ...options }),
  };
}
