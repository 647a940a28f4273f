/**
 * Keeps the embedded cache over restarts: a file of the commands that make it again. Invariant: what is
 * in the file up to its last whole command is a state that the cache was in.
 *
 * A command reaches the operating system within a turn of the event loop and the disk within a second, so
 * kill -9 of the host may lose the last few milliseconds and a power cut the last second. The file is
 * rewritten from the live keys when it has grown to twice their size.
 */
import { type FileHandle, mkdir, open, readFile, rename, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import type { Keyspace } from './keyspace.ts';
import { CommandReader, encodeCommand } from './resp.ts';

const REWRITE_LEAST_BYTES = 8 << 20;
const BATCH_BYTES = 256 << 10;
/** Commands that wait for a slow disk; over it they are dropped and the file is rewritten. */
const MAX_PENDING_BYTES = 32 << 20;
const SYNC_MS = 1_000;

export class Journal {
  readonly #keyspace: Keyspace;
  readonly #path: string;
  readonly #warn: (message: string) => void;
  #file: FileHandle;
  #size: number;
  /** Size after the last rewrite. */
  #base: number;
  #pending: string[] = [];
  #pendingBytes = 0;
  /** What happened since a rewrite began; it goes behind the snapshot. */
  #tail: string[] | undefined;
  #damaged = false;
  #working: Promise<void> | undefined;
  #unsynced = false;
  readonly #timer: NodeJS.Timeout;

  private constructor(
    keyspace: Keyspace,
    path: string,
    warn: (message: string) => void,
    file: FileHandle,
    size: number,
  ) {
    this.#keyspace = keyspace;
    this.#path = path;
    this.#warn = warn;
    this.#file = file;
    this.#size = size;
    this.#base = size;
    this.#timer = setInterval(() => this.#tick(), SYNC_MS).unref();
  }

  /** Fills `keyspace` from the file in `folder` and goes on writing there. */
  static async open(
    folder: string,
    keyspace: Keyspace,
    warn: (message: string) => void,
  ): Promise<Journal> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const path = join(folder, 'journal.resp');
    const size = await replay(path, keyspace, warn);
    const file = await open(path, 'a', 0o600);
    return new Journal(keyspace, path, warn, file, size);
  }

  /** Takes what the last commands did; several become one unit that is replayed whole or not at all. */
  append(effects: readonly (readonly string[])[]): void {
    if (effects.length === 0) return;
    const commands = effects.length === 1 ? effects : [['MULTI'], ...effects, ['EXEC']];
    const text = commands.map(encodeCommand).join('');
    this.#tail?.push(text);
    this.#pending.push(text);
    this.#pendingBytes += text.length;
    if (this.#pendingBytes > MAX_PENDING_BYTES) {
      this.#pending = [];
      this.#pendingBytes = 0;
      this.#damaged = true;
    }
    this.#start();
  }

  /** Writes and syncs all that was appended. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#start();
    await this.#working;
    await this.#file.sync().catch((error: Error) => this.#failed(error));
    await this.#file.close();
  }

  #start(): void {
    this.#working ??= this.#work().finally(() => (this.#working = undefined));
  }

  async #work(): Promise<void> {
    // Everything that is appended in this turn of the event loop goes in one write.
    await new Promise((done) => setImmediate(done));
    try {
      if (!this.#damaged) await this.#flush();
      const limit = Math.max(REWRITE_LEAST_BYTES, 2 * this.#base);
      if (this.#damaged || this.#size > limit) await this.#rewrite();
      await this.#flush();
    } catch (error) {
      this.#failed(error);
    }
  }

  async #flush(): Promise<void> {
    while (this.#pending.length > 0) {
      const text = this.#pending.join('');
      this.#pending = [];
      this.#pendingBytes = 0;
      const { bytesWritten } = await this.#file.write(text);
      this.#size += bytesWritten;
      this.#unsynced = true;
      if (bytesWritten < Buffer.byteLength(text)) throw new Error('the disk took a part only');
    }
  }

  async #rewrite(): Promise<void> {
    const path = `${this.#path}.new`;
    const file = await open(path, 'w', 0o600);
    try {
      const tail: string[] = [];
      this.#tail = tail;
      let size = 0;
      const write = async (text: string) => {
        await file.writeFile(text);
        size += Buffer.byteLength(text);
      };
      let batch = '';
      for (const command of this.#keyspace.snapshot()) {
        batch += encodeCommand(command);
        if (batch.length < BATCH_BYTES) continue;
        await write(batch);
        batch = '';
        if (!this.#damaged) await this.#flush();
      }
      await write(batch);
      await file.sync();
      await rename(path, this.#path);
      while (tail.length > 0) await write(tail.splice(0).join(''));
      // Nothing awaits between the empty tail and here: what is pending is in the new file already.
      const old = this.#file;
      this.#file = file;
      this.#pending = [];
      this.#pendingBytes = 0;
      this.#size = size;
      this.#base = size;
      this.#damaged = false;
      await old.close();
    } catch (error) {
      if (this.#file !== file) await file.close().catch(() => undefined);
      throw error;
    } finally {
      this.#tail = undefined;
    }
  }

  #tick(): void {
    this.#keyspace.sweep();
    if (this.#damaged) this.#start();
    if (!this.#unsynced) return;
    this.#unsynced = false;
    this.#file.datasync().catch((error: Error) => this.#failed(error));
  }

  /** A half-written command would hide all that comes behind it: only a rewrite makes it good. */
  #failed(error: unknown): void {
    if (!this.#damaged) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#warn(`cache: the journal could not be written, a restart may lose keys: ${reason}`);
    }
    this.#damaged = true;
  }
}

/** Runs the file's commands, cuts off what is not whole, and answers the size that is left. */
async function replay(
  path: string,
  keyspace: Keyspace,
  warn: (message: string) => void,
): Promise<number> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (!bytes) return 0;
  const reader = new CommandReader();
  let unit: string[][] | undefined;
  let whole = 0;
  try {
    for (const command of reader.read(bytes)) {
      if (command[0] === 'MULTI') {
        unit = [];
      } else if (command[0] === 'EXEC') {
        for (const part of unit ?? []) keyspace.run(part);
        unit = undefined;
      } else if (unit) {
        unit.push(command);
      } else {
        keyspace.run(command);
      }
      if (!unit) whole = reader.consumed;
    }
  } catch {
    warn(`cache: the journal is damaged after ${whole} bytes; what came later is lost`);
  }
  keyspace.takeEffects();
  if (whole < bytes.length) await truncate(path, whole);
  return whole;
}
