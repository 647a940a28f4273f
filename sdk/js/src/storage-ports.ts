/**
 * The ports `blob` and `secrets` over any way of calling a capability: inside the sandbox and in a test of
 * natively run handlers they are the same.
 */
import type { BlobPort, Secrets } from './ports.ts';

type Invoke = <Value>(
  capability: string,
  operation: string,
  args: object,
) => Value | Promise<Value>;

/** Bytes as the runtime at hand turns them into text and back. */
export interface Codec {
  readonly toBase64: (bytes: Uint8Array) => string;
  readonly fromBase64: (base64: string) => Uint8Array<ArrayBuffer>;
  readonly toText: (bytes: Uint8Array) => string;
}

export function blobPort(invoke: Invoke, codec: Codec): BlobPort {
  const read: BlobPort['read'] = async (path, options = {}) => {
    const args = { path, ...options };
    return codec.fromBase64((await invoke<{ base64: string }>('blob', 'read', args)).base64);
  };
  return {
    read,
    readText: async (path) => codec.toText(await read(path)),
    write: async (path, content, options = {}) => {
      const given =
        typeof content === 'string' ? { text: content } : { base64: codec.toBase64(content) };
      return invoke('blob', 'write', { path, ...given, ...options });
    },
    list: async (options = {}) => invoke('blob', 'list', options),
    delete: async (path) => {
      return (await invoke<{ deleted: boolean }>('blob', 'delete', { path })).deleted;
    },
  };
}

export function secretsPort(invoke: Invoke): Secrets {
  return {
    read: async (name) => (await invoke<{ value: string }>('secrets', 'read', { name })).value,
  };
}
