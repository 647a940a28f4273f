/** What stands behind `blob` and `secrets` in a test: blobs that are really kept, secrets that it sets. */
import { createHash } from 'node:crypto';
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import { noOperation, text } from './fakes.ts';

type Arguments = { readonly [name: string]: Json };

/** The host's own bound, see `blob` in the reference of capabilities. */
const MAX_BLOB_BYTES = 768_000;
const DEFAULT_PAGE = 100;

/** The rules of the host's blobs, in memory and on the test's clock; quotas apart. */
export class FakeBlob {
  readonly #blobs = new Map<string, { content: Buffer; modifiedAt: string }>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** What is kept under a path, or undefined. */
  peek(path: string): Uint8Array | undefined {
    return this.#blobs.get(path)?.content;
  }

  /** Keeps a blob, as the plugin itself would. */
  put(path: string, content: string | Uint8Array): void {
    const modifiedAt = new Date(this.#now()).toISOString();
    this.#blobs.set(path, { content: Buffer.from(content), modifiedAt });
  }

  invoke(operation: string, args: Arguments): Json {
    switch (operation) {
      case 'read':
        return this.#read(pathOf(args), Number(args['offset'] ?? 0), args['length']);
      case 'write':
        return this.#write(pathOf(args), args);
      case 'list':
        return this.#list(prefixOf(args), args['cursor'], args['limit']);
      case 'delete':
        return { deleted: this.#blobs.delete(pathOf(args)) };
      default:
        throw noOperation('blob', operation);
    }
  }

  #read(path: string, offset: number, length: Json | undefined): Json {
    const blob = this.#blobs.get(path);
    if (blob === undefined) {
      throw new NoaError('NOT_FOUND', `blob: there is no ${JSON.stringify(path)}`);
    }
    const { content } = blob;
    const end = typeof length === 'number' ? offset + length : content.length;
    const base64 = content.subarray(offset, end).toString('base64');
    return { base64, size: content.length, etag: etagOf(content) };
  }

  #write(path: string, args: Arguments): Json {
    const content =
      args['text'] === undefined
        ? Buffer.from(text(args, 'base64'), 'base64')
        : Buffer.from(text(args, 'text'));
    if (content.length > MAX_BLOB_BYTES) {
      const message = `blob: the content has ${content.length} bytes, at most ${MAX_BLOB_BYTES} are allowed; write it in parts`;
      throw new NoaError('PAYLOAD_TOO_LARGE', message);
    }
    const present = this.#blobs.get(path);
    const { ifMatch, ifNoneMatch } = args;
    if (ifMatch !== undefined && (!present || etagOf(present.content) !== ifMatch)) {
      throw new NoaError('CONFLICT', 'blob: ifMatch does not hold; read it again');
    }
    if (ifNoneMatch !== undefined && present) {
      throw new NoaError('CONFLICT', 'blob: ifNoneMatch does not hold: the blob is there already');
    }
    this.put(path, content);
    return { etag: etagOf(content), size: content.length };
  }

  #list(prefix: string, cursor: Json | undefined, limit: Json | undefined): Json {
    const after = typeof cursor === 'string' ? cursor : '';
    const count = typeof limit === 'number' ? limit : DEFAULT_PAGE;
    const found = [...this.#blobs]
      .filter(([path]) => path.startsWith(prefix) && path > after)
      .sort(([a], [b]) => (a < b ? -1 : 1));
    const entries = found.slice(0, count).map(([path, { content, modifiedAt }]) => {
      return { path, size: content.length, etag: etagOf(content), modifiedAt };
    });
    return { entries, next: found.length > count ? (entries.at(-1)?.path ?? null) : null };
  }
}

export class FakeSecrets {
  readonly #values = new Map<string, string>();

  /** Sets a secret, as an administrator would. */
  set(name: string, value: string): this {
    this.#values.set(name, value);
    return this;
  }

  invoke(operation: string, args: Arguments): Json {
    if (operation !== 'read') throw noOperation('secrets', operation);
    const name = text(args, 'name');
    const value = this.#values.get(name);
    if (value !== undefined) return { value };
    const message = `secrets: ${JSON.stringify(name)} is not set; add host.secrets.set(…)`;
    throw new NoaError('NOT_FOUND', message);
  }
}

export function prefixOf(args: Arguments): string {
  return args['prefix'] === undefined ? '' : text(args, 'prefix');
}

function pathOf(args: Arguments): string {
  const path = text(args, 'path');
  const segments = path.split('/');
  if (!segments.some((segment) => /^\.*$/.test(segment))) return path;
  const message = `blob: ${JSON.stringify(path)} must be a relative path without empty segments and dots`;
  throw new NoaError('INVALID_ARGUMENT', message);
}

function etagOf(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('base64url');
}
