/**
 * One blob in one file: a line of JSON that says whose it is and what, then the content. Invariant:
 * content is only ever taken from a regular file that names this plugin and this path and is whole, so
 * links, devices and files of others that lie where a blob would be lead nowhere.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { NoaError } from '@noa/sdk/host';

export interface Head {
  readonly plugin: string;
  readonly path: string;
  /** Bytes of content. */
  readonly size: number;
  /** SHA-256 of the content, in base64url. */
  readonly etag: string;
}

export interface BlobFile {
  readonly head: Head;
  readonly modifiedAt: Date;
  /** Bytes of content from `offset` on, fewer than `length` at the end. */
  read(offset: number, length: number): Promise<Buffer>;
}

/** Longest first line: a path of 512 bytes, a plugin's name and two short members. */
const MAX_HEAD_BYTES = 1024;
/** A pipe must not make the opening wait. */
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
const NEW = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/** 64 hex digits: no text of a plugin's is ever part of a name on the disk. */
export const FILE_NAME = /^[0-9a-f]{64}$/;

export function fileName(path: string): string {
  return createHash('sha256').update(path).digest('hex');
}

export function etagOf(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('base64url');
}

/** Writes a new file, durable when this resolves; answers the time of its making. */
export async function writeBlob(at: string, head: Head, content: Uint8Array): Promise<Date> {
  const { plugin, path, size, etag } = head;
  const file = await open(at, NEW, 0o600);
  try {
    const line = Buffer.from(`${JSON.stringify({ plugin, path, size, etag })}\n`);
    await file.writev([line, content]);
    await file.sync();
    const stat = await file.stat();
    // A write may stop short of a full disk without an error.
    if (stat.size !== line.length + size) {
      throw Object.assign(new Error('the file was cut short'), { code: 'ENOSPC' });
    }
    return stat.mtime;
  } finally {
    await file.close();
  }
}

/**
 * Opens the blob in `folder` under this file name for the time of `use`; answers undefined when there is
 * none. Rejects with NoaError INTERNAL when what is there is not a whole blob of this plugin's.
 */
export async function withBlob<T>(
  folder: string,
  name: string,
  plugin: string,
  use: (blob: BlobFile) => Promise<T> | T,
): Promise<T | undefined> {
  let file: FileHandle;
  try {
    file = await open(join(folder, name), READ);
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT') return undefined;
    // A link; a socket or a device that is not there.
    if (code === 'ELOOP' || code === 'ENXIO' || code === 'ENODEV') throw damaged(error);
    throw error;
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw damaged();
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_HEAD_BYTES), { position: 0 });
    const start = buffer.indexOf(10) + 1;
    const head = parseHead(buffer.toString('utf8', 0, start));
    const whole = head !== undefined && start <= bytesRead && stat.size === start + head.size;
    if (!whole || head.plugin !== plugin || fileName(head.path) !== name) throw damaged();
    return await use({
      head,
      modifiedAt: stat.mtime,
      async read(offset, length) {
        const wanted = Math.max(0, Math.min(length, head.size - offset));
        const content = Buffer.alloc(wanted);
        if (wanted === 0) return content;
        const read = await file.read(content, { position: start + offset });
        if (read.bytesRead !== wanted) throw damaged();
        return content;
      },
    });
  } finally {
    await file.close();
  }
}

function parseHead(line: string): Head | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  return isHead(value) ? value : undefined;
}

function isHead(value: unknown): value is Head {
  if (typeof value !== 'object' || value === null) return false;
  const { plugin, path, size, etag } = value as { readonly [name: string]: unknown };
  const texts = [plugin, path, etag].every((text) => typeof text === 'string');
  return texts && Number.isSafeInteger(size) && Number(size) >= 0;
}

export function damaged(cause?: unknown): NoaError {
  return new NoaError(
    'INTERNAL',
    'blob: what the host keeps under this path is damaged; write it again, or delete it',
    { cause },
  );
}

export function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}
