/**
 * The blobs of one plugin: a folder of files, and in memory what is in it. Invariants: a blob is replaced
 * by one rename of a whole and durable file, so whoever reads, and whoever starts after a kill, has the
 * old content or the new; conditions and quotas are judged where no other change of the area can come
 * between. One process owns the folder.
 */
import { randomUUID } from 'node:crypto';
import { lstat, mkdir, open, readdir, rename, rm, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { codeOf, damaged, etagOf, FILE_NAME, fileName, withBlob, writeBlob } from './file.ts';

export interface Quota {
  /** Bytes of content of one plugin's blobs together. */
  readonly maxBytes: number;
  readonly maxCount: number;
}

export interface Conditions {
  readonly ifMatch?: string | undefined;
  readonly ifNoneMatch?: string | undefined;
}

interface Entry {
  readonly size: number;
  readonly etag: string;
  /** ISO 8601. */
  readonly modifiedAt: string;
}

/** Files that are looked into at once when an area is read. */
const SCAN = 32;

export class Area {
  readonly #folder: string;
  readonly #drafts: string;
  readonly #plugin: string;
  readonly #quota: Quota;
  readonly #warn: (message: string) => void;
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;
  /** The paths in order; made when first asked for after a path came or went. */
  #order: readonly string[] | undefined;
  #scanned: Promise<void> | undefined;
  #turn: Promise<void> = Promise.resolve();

  /** `warn` hears of what is in the folder and no blob; it stays where it is. */
  constructor(
    folder: string,
    drafts: string,
    plugin: string,
    quota: Quota,
    warn: (message: string) => void,
  ) {
    this.#folder = folder;
    this.#drafts = drafts;
    this.#plugin = plugin;
    this.#quota = quota;
    this.#warn = warn;
  }

  /** Resolves when what is in the folder is known; comes before anything but `drop`. */
  ready(): Promise<void> {
    this.#scanned ??= this.#scan().catch((error: unknown) => {
      this.#scanned = undefined;
      throw error;
    });
    return this.#scanned;
  }

  async #scan(): Promise<void> {
    if (!(await this.#exists())) return;
    const names = await readdir(this.#folder);
    for (let at = 0; at < names.length; at += SCAN) {
      await Promise.all(names.slice(at, at + SCAN).map((name) => this.#take(name)));
    }
  }

  async #take(name: string): Promise<void> {
    try {
      if (!FILE_NAME.test(name)) throw damaged();
      await withBlob(this.#folder, name, this.#plugin, ({ head, modifiedAt }) => {
        this.#put(head.path, { ...head, modifiedAt: modifiedAt.toISOString() });
      });
    } catch (error) {
      if (!(error instanceof NoaError)) throw error;
      this.#warn(`the blobs of plugin ${this.#plugin} have a damaged or foreign file ${name}`);
    }
  }

  /** Rejects with NOT_FOUND when there is no such blob. */
  async read(path: string, offset: number, length: number) {
    const found = await withBlob(this.#folder, fileName(path), this.#plugin, async (blob) => {
      const { size, etag } = blob.head;
      return { base64: (await blob.read(offset, length)).toString('base64'), size, etag };
    });
    if (found !== undefined) return found;
    throw new NoaError('NOT_FOUND', `blob: there is no ${JSON.stringify(path)}`);
  }

  /** `proceed` throws when the caller no longer waits; asked once more before anything is changed. */
  async write(path: string, content: Uint8Array, conditions: Conditions, proceed: () => void) {
    const head = { plugin: this.#plugin, path, size: content.length, etag: etagOf(content) };
    this.#judge(path, content.length, conditions);
    const draft = join(this.#drafts, randomUUID());
    try {
      const modifiedAt = (await writeBlob(draft, head, content)).toISOString();
      await this.#exclusive(async () => {
        proceed();
        this.#judge(path, content.length, conditions);
        await this.#make();
        await rename(draft, join(this.#folder, fileName(path)));
        this.#put(path, { size: head.size, etag: head.etag, modifiedAt });
      });
    } catch (error) {
      // What cannot be deleted now goes at the next start; why the write failed matters more.
      await rm(draft, { force: true }).catch(() => undefined);
      throw error;
    }
    await syncFolder(this.#folder);
    return { etag: head.etag, size: head.size };
  }

  #judge(path: string, size: number, { ifMatch, ifNoneMatch }: Conditions): void {
    const present = this.#entries.get(path);
    if (ifMatch !== undefined && present?.etag !== ifMatch) {
      const now = present === undefined ? 'there is none' : `its etag is ${present.etag}`;
      throw new NoaError('CONFLICT', `blob: ifMatch does not hold: ${now}; read it again`);
    }
    if (ifNoneMatch !== undefined && present !== undefined) {
      throw new NoaError('CONFLICT', `blob: ifNoneMatch does not hold: the blob is there already`);
    }
    const { maxBytes, maxCount } = this.#quota;
    const bytes = this.#bytes - (present?.size ?? 0) + size;
    if (bytes > maxBytes && size > (present?.size ?? 0)) {
      throw full(`${bytes} bytes together; plugins.blob_max_bytes allows ${maxBytes}`);
    }
    if (present === undefined && this.#entries.size >= maxCount) {
      throw full(`${this.#entries.size + 1} blobs; plugins.blob_max_count allows ${maxCount}`);
    }
  }

  list(prefix: string, cursor: string | undefined, limit: number) {
    this.#order ??= [...this.#entries.keys()].sort();
    const found = this.#order.filter(
      (path) => path.startsWith(prefix) && (cursor === undefined || path > cursor),
    );
    const page = found.slice(0, limit);
    const entries = page.flatMap((path) => {
      const entry = this.#entries.get(path);
      return entry === undefined ? [] : [{ path, ...entry }];
    });
    return { entries, next: found.length > limit ? (page.at(-1) ?? null) : null };
  }

  async delete(path: string, proceed: () => void): Promise<{ deleted: boolean }> {
    const deleted = await this.#exclusive(async () => {
      proceed();
      const gone = (await this.#exists()) && (await remove(join(this.#folder, fileName(path))));
      this.#forget(path);
      return gone;
    });
    if (deleted) await syncFolder(this.#folder);
    return { deleted };
  }

  /** Deletes the folder; a link in its place goes, what it leads to stays. */
  drop(): Promise<void> {
    return this.#exclusive(async () => {
      await rm(this.#folder, { recursive: true, force: true });
      await syncFolder(dirname(this.#folder));
      for (const path of this.#entries.keys()) this.#forget(path);
    });
  }

  #put(path: string, { size, etag, modifiedAt }: Entry): void {
    const before = this.#entries.get(path);
    if (before === undefined) this.#order = undefined;
    this.#bytes += size - (before?.size ?? 0);
    this.#entries.set(path, { size, etag, modifiedAt });
  }

  #forget(path: string): void {
    const before = this.#entries.get(path);
    if (before === undefined) return;
    this.#bytes -= before.size;
    this.#entries.delete(path);
    this.#order = undefined;
  }

  async #make(): Promise<void> {
    if (await this.#exists()) return;
    await mkdir(this.#folder, { mode: 0o700 });
    await syncFolder(dirname(this.#folder));
  }

  /** Whether the folder is there. Rejects when something else is in its place, such as a link. */
  async #exists(): Promise<boolean> {
    const stat = await lstat(this.#folder).catch((error: unknown) => {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw error;
    });
    if (stat === undefined || stat.isDirectory()) return stat !== undefined;
    throw new NoaError('INTERNAL', 'blob: the place of this plugin’s blobs is taken by no folder');
  }

  /** Lets the changes of this area take turns. */
  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.then(
      () => undefined,
      () => undefined,
    );
    return result;
  }
}

function full(what: string): NoaError {
  return new NoaError(
    'RESOURCE_EXHAUSTED',
    `blob: the plugin would have ${what}: delete some, or ask an administrator for more`,
  );
}

/** True when there was such a file, or link. */
async function remove(path: string): Promise<boolean> {
  try {
    await unlink(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
