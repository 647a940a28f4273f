/**
 * The driver of `blob` on a folder of this host: one folder a plugin, and `.new` for what is being
 * written. Invariant: what a killed process left half-written is in `.new`, which is emptied at the start.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Driver, type DriverCall, type Json, NoaError, stopped } from '@noa/sdk/host';
import { Area, type Quota } from './area.ts';
import { canonicalPath, DEFAULT_PAGE, MAX_BLOB_BYTES } from './capability.ts';
import { codeOf } from './file.ts';

/** Calls of one plugin that are under way at once. */
const MAX_CALLS = 64;
/** Not the name of a plugin. */
const DRAFTS = '.new';

export interface BlobFolderOptions extends Quota {
  /** Made when it is absent; nobody else writes in it while this process runs. */
  readonly folder: string;
  /** Told of files that are damaged or not the host's. */
  readonly warn: (message: string) => void;
}

/** Rejects with NoaError UNAVAILABLE when the folder cannot be written. */
export async function openBlobFolder(options: BlobFolderOptions): Promise<Driver> {
  const drafts = join(options.folder, DRAFTS);
  try {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    await rm(drafts, { recursive: true, force: true });
    await mkdir(drafts, { mode: 0o700 });
  } catch (cause) {
    const text = `the folder of the blobs, ${options.folder}, cannot be written (${codeOf(cause)})`;
    throw new NoaError('UNAVAILABLE', `${text}; give this user the right to`, { cause });
  }
  return new BlobFolder(options, drafts);
}

interface Unit {
  readonly area: Area;
  calls: number;
}

class BlobFolder implements Driver {
  readonly #options: BlobFolderOptions;
  readonly #drafts: string;
  readonly #units = new Map<string, Unit>();

  constructor(options: BlobFolderOptions, drafts: string) {
    this.#options = options;
    this.#drafts = drafts;
  }

  #unit(plugin: string): Unit {
    let unit = this.#units.get(plugin);
    if (unit === undefined) {
      const { folder, warn } = this.#options;
      const own = join(folder, plugin);
      unit = { area: new Area(own, this.#drafts, plugin, this.#options, warn), calls: 0 };
      this.#units.set(plugin, unit);
    }
    return unit;
  }

  async invoke(operation: string, input: Json, call: DriverCall): Promise<unknown> {
    const unit = this.#unit(call.plugin);
    if (unit.calls >= MAX_CALLS) {
      throw new NoaError('RESOURCE_EXHAUSTED', 'blob: too many calls are under way; try again');
    }
    unit.calls += 1;
    try {
      const proceed = (): void => {
        if (call.signal.aborted) throw stopped('blob', call);
      };
      proceed();
      await unit.area.ready();
      return await run(unit.area, operation, input, proceed);
    } catch (error) {
      throw fromDisk(error);
    } finally {
      unit.calls -= 1;
    }
  }

  async check(): Promise<void> {
    const probe = join(this.#drafts, randomUUID());
    try {
      await (await open(probe, 'wx', 0o600)).close();
      await rm(probe);
    } catch (error) {
      throw fromDisk(error);
    }
  }

  async drop(plugin: string): Promise<void> {
    await this.#unit(plugin).area.drop();
    this.#units.delete(plugin);
  }

  async close(): Promise<void> {}
}

async function run(
  area: Area,
  operation: string,
  input: Json,
  proceed: () => void,
): Promise<unknown> {
  const args = new Arguments(input);
  switch (operation) {
    case 'read': {
      const length = args.integer('length') ?? MAX_BLOB_BYTES;
      return area.read(args.path(), args.integer('offset') ?? 0, length);
    }
    case 'write': {
      const conditions = { ifMatch: args.text('ifMatch'), ifNoneMatch: args.text('ifNoneMatch') };
      return area.write(args.path(), args.content(), conditions, proceed);
    }
    case 'list': {
      const limit = args.integer('limit') ?? DEFAULT_PAGE;
      return area.list(args.text('prefix') ?? '', args.text('cursor'), limit);
    }
    case 'delete':
      return area.delete(args.path(), proceed);
    default:
      throw new NoaError('INVALID_ARGUMENT', `blob: there is no operation ${operation}`);
  }
}

/** Reads arguments that the broker has checked; checks again what the disk must not see otherwise. */
class Arguments {
  readonly #input: { readonly [name: string]: Json };

  constructor(input: Json) {
    if (typeof input !== 'object' || input === null || Array.isArray(input)) {
      throw new NoaError('INVALID_ARGUMENT', 'blob: the arguments must be an object');
    }
    this.#input = input;
  }

  path(): string {
    return canonicalPath(this.text('path') ?? '');
  }

  text(name: string): string | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === 'string') return value;
    throw new NoaError('INVALID_ARGUMENT', `blob: ${name} must be a string`);
  }

  integer(name: string): number | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
    throw new NoaError('INVALID_ARGUMENT', `blob: ${name} must be a whole number from 0`);
  }

  content(): Uint8Array {
    const bytes = this.#bytes();
    if (bytes.length <= MAX_BLOB_BYTES) return bytes;
    throw new NoaError(
      'PAYLOAD_TOO_LARGE',
      `blob: the content has ${bytes.length} bytes, at most ${MAX_BLOB_BYTES} are allowed; write it in parts`,
    );
  }

  #bytes(): Uint8Array {
    const text = this.text('text');
    if (text !== undefined) {
      if (text.isWellFormed()) return Buffer.from(text);
      throw new NoaError('INVALID_ARGUMENT', 'blob: text has a lone surrogate; send it as base64');
    }
    const base64 = this.text('base64') ?? '';
    const bytes = Buffer.from(base64, 'base64');
    if (bytes.toString('base64') === base64) return bytes;
    throw new NoaError('INVALID_ARGUMENT', 'blob: base64 must be RFC 4648 section 4, with padding');
  }

  #get(name: string): Json | undefined {
    return Object.hasOwn(this.#input, name) ? this.#input[name] : undefined;
  }
}

/** What the disk refuses in a way that an operator mends; everything else stays the bug that it is. */
function fromDisk(cause: unknown): unknown {
  const code = codeOf(cause);
  if (cause instanceof NoaError) return cause;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    const text = 'blob: the disk of this host is full; an administrator has to make room';
    return new NoaError('RESOURCE_EXHAUSTED', text, { cause });
  }
  if (['EACCES', 'EPERM', 'EROFS', 'EMFILE', 'ENFILE', 'EIO'].includes(code)) {
    const text = `blob: the folder of the blobs cannot be used now (${code}); try again`;
    return new NoaError('UNAVAILABLE', text, { cause });
  }
  return cause;
}
