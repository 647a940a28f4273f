/**
 * The part of WASI preview 1 that modules of Extism's PDKs link to: no files, no sockets, no arguments,
 * no waiting. What a module writes to its standard output and error becomes lines of its plugin's log.
 * Every pointer is the guest's, so each access is checked against its memory first.
 */
import { webcrypto } from 'node:crypto';
import type { LogLevel } from '../../kernel/loader.ts';

export const WASI_MODULE = 'wasi_snapshot_preview1';

/** Error numbers of preview 1. */
const ERRNO = {
  success: 0,
  badf: 8,
  fault: 21,
  inval: 28,
  nosys: 52,
  spipe: 70,
  notcapable: 76,
} as const;

/** Parameters of each function: `i` is i32, `I` is i64. All but proc_exit answer an error number. */
const PARAMETERS = {
  args_get: 'ii',
  args_sizes_get: 'ii',
  clock_res_get: 'ii',
  clock_time_get: 'iIi',
  environ_get: 'ii',
  environ_sizes_get: 'ii',
  fd_advise: 'iIIi',
  fd_allocate: 'iII',
  fd_close: 'i',
  fd_datasync: 'i',
  fd_fdstat_get: 'ii',
  fd_fdstat_set_flags: 'ii',
  fd_fdstat_set_rights: 'iII',
  fd_filestat_get: 'ii',
  fd_filestat_set_size: 'iI',
  fd_filestat_set_times: 'iIIi',
  fd_pread: 'iiiIi',
  fd_prestat_dir_name: 'iii',
  fd_prestat_get: 'ii',
  fd_pwrite: 'iiiIi',
  fd_read: 'iiii',
  fd_readdir: 'iiiIi',
  fd_renumber: 'ii',
  fd_seek: 'iIii',
  fd_sync: 'i',
  fd_tell: 'ii',
  fd_write: 'iiii',
  path_create_directory: 'iii',
  path_filestat_get: 'iiiii',
  path_filestat_set_times: 'iiiiIIi',
  path_link: 'iiiiiii',
  path_open: 'iiiiiIIii',
  path_readlink: 'iiiiii',
  path_remove_directory: 'iii',
  path_rename: 'iiiiii',
  path_symlink: 'iiiii',
  path_unlink_file: 'iii',
  poll_oneoff: 'iiii',
  proc_exit: 'i',
  proc_raise: 'i',
  random_get: 'ii',
  sched_yield: '',
  sock_accept: 'iii',
  sock_recv: 'iiiiii',
  sock_send: 'iiiii',
  sock_shutdown: 'ii',
} as const;

/** Types of the imports that this host provides. */
export const WASI_TYPES: { readonly [name: string]: string } = Object.fromEntries(
  Object.entries(PARAMETERS).map(([name, letters]) => {
    const types = Array.from(letters, (letter) => (letter === 'i' ? 'i32' : 'i64')).join(', ');
    return [name, `(${types}) -> ${name === 'proc_exit' ? 'nothing' : 'i32'}`];
  }),
);

/** What it needs of the instance that it serves. */
export interface WasiHost {
  /** The guest's memory at this moment; undefined before there is one. */
  memory(): ArrayBuffer | undefined;
  /** Counts work that depends on a length, in bytes. */
  charge(bytes: number): void;
  line(level: LogLevel, text: string): void;
  /** Ends the call as a trap in these words. */
  trap(words: string): never;
}

const MAX_LINE_BYTES = 8192;
/** A line costs as much as so many bytes copied. */
const LINE_WEIGHT_BYTES = 16 << 10;
const MAX_VECTORS = 1024;
/** What taking one vector costs beside its bytes, in bytes copied. */
const VECTOR_WEIGHT_BYTES = 4 << 10;
const MAX_WRITE_BYTES = 65_536;
/** `getRandomValues` takes no more at a time. */
const RANDOM_BYTES = 65_536;
/** One call is not interrupted: it fills no more than it can in a few milliseconds. */
const MAX_RANDOM_BYTES = 1 << 20;
/** A random byte costs as much as so many copied. */
const RANDOM_WEIGHT = 16;
const CHARACTER_DEVICE = 2;
const RIGHT_TO_WRITE = 1n << 6n;
/** Standard output and standard error. */
const LEVELS: { readonly [fd: number]: LogLevel } = { 1: 'info', 2: 'error' };

export class Wasi {
  readonly imports: { readonly [name: string]: (...values: never[]) => number };
  readonly #host: WasiHost;
  /** What was written after the last end of a line. */
  readonly #rest: { [fd: number]: Rest } = {};

  constructor(host: WasiHost) {
    this.#host = host;
    const refused = Object.keys(PARAMETERS).map((name) => {
      const errno = name.startsWith('path_')
        ? ERRNO.notcapable
        : /^(fd|sock)_/.test(name)
          ? ERRNO.badf
          : ERRNO.nosys;
      return [name, () => errno] as const;
    });
    this.imports = { ...Object.fromEntries(refused), ...this.#answered() };
  }

  /** Writes lines that have no end yet. At the end of a call; never throws. */
  flush(): void {
    for (const [fd, level] of Object.entries(LEVELS)) {
      const rest = this.#rest[Number(fd)];
      if (rest !== undefined && rest.length > 0) this.#line(level, rest);
    }
  }

  #answered(): Record<string, (...values: never[]) => number> {
    const none = (): number => ERRNO.success;
    const noSizes = (count: number, size: number): number =>
      this.#within([count, 4], [size, 4], (memory) => {
        memory.setUint32(count >>> 0, 0, true);
        memory.setUint32(size >>> 0, 0, true);
      });
    return {
      args_get: none,
      args_sizes_get: noSizes,
      environ_get: none,
      environ_sizes_get: noSizes,
      sched_yield: none,
      clock_res_get: (id: number, at: number) => this.#time(id, at, () => 1_000_000n),
      clock_time_get: (id: number, _precision: bigint, at: number) => this.#time(id, at, now),
      random_get: (at: number, length: number) => this.#random(at >>> 0, length >>> 0),
      fd_close: (fd: number) => (isOpen(fd) ? ERRNO.success : ERRNO.badf),
      fd_seek: (fd: number) => (isOpen(fd) ? ERRNO.spipe : ERRNO.badf),
      fd_tell: (fd: number) => (isOpen(fd) ? ERRNO.spipe : ERRNO.badf),
      fd_fdstat_get: (fd: number, at: number) => this.#status(fd, at),
      fd_write: (fd: number, vectors: number, count: number, written: number) =>
        this.#write(fd, vectors >>> 0, count >>> 0, written),
      proc_exit: (code: number) => {
        this.flush();
        return this.#host.trap(`it ended itself with the exit code ${code >>> 0} (proc_exit)`);
      },
    };
  }

  /** Runs when both ranges lie in the memory. */
  #within(
    first: readonly [at: number, length: number],
    second: readonly [at: number, length: number],
    run: (memory: DataView) => void,
  ): number {
    const buffer = this.#host.memory();
    const inside = ([at, length]: readonly [number, number]): boolean =>
      buffer !== undefined && (at >>> 0) + length <= buffer.byteLength;
    if (buffer === undefined || !inside(first) || !inside(second)) return ERRNO.fault;
    run(new DataView(buffer));
    return ERRNO.success;
  }

  #time(id: number, at: number, value: (monotonic: boolean) => bigint): number {
    if (id !== 0 && id !== 1) return ERRNO.inval;
    return this.#within([at, 8], [0, 0], (memory) =>
      memory.setBigUint64(at >>> 0, value(id === 1), true),
    );
  }

  #random(at: number, length: number): number {
    const fits = length <= MAX_RANDOM_BYTES;
    const errno = this.#within([at, length], [0, 0], ({ buffer }) => {
      if (!fits) return;
      this.#host.charge(RANDOM_WEIGHT * length);
      for (let done = 0; done < length; done += RANDOM_BYTES) {
        const part = Math.min(RANDOM_BYTES, length - done);
        webcrypto.getRandomValues(new Uint8Array(buffer as ArrayBuffer, at + done, part));
      }
    });
    return fits || errno !== ERRNO.success ? errno : ERRNO.inval;
  }

  #status(fd: number, at: number): number {
    if (!isOpen(fd)) return ERRNO.badf;
    return this.#within([at, 24], [0, 0], (memory) => {
      memory.setBigUint64(at >>> 0, BigInt(CHARACTER_DEVICE), true); // its flags are 0
      memory.setBigUint64((at >>> 0) + 8, fd === 0 ? 0n : RIGHT_TO_WRITE, true);
      memory.setBigUint64((at >>> 0) + 16, 0n, true);
    });
  }

  /** Takes at most MAX_WRITE_BYTES, as any system may: who has more writes again. */
  #write(fd: number, vectors: number, count: number, written: number): number {
    if (LEVELS[fd] === undefined) return ERRNO.badf;
    if (count > MAX_VECTORS) return ERRNO.inval;
    let left = MAX_WRITE_BYTES;
    let fits = true;
    const errno = this.#within([vectors, count * 8], [written, 4], (memory) => {
      this.#host.charge(VECTOR_WEIGHT_BYTES * count);
      for (let index = 0; index < count && left > 0; index += 1) {
        const at = memory.getUint32(vectors + index * 8, true);
        const length = memory.getUint32(vectors + index * 8 + 4, true);
        fits = at + length <= memory.byteLength;
        if (!fits) return;
        const taken = Math.min(length, left);
        this.#print(fd, Buffer.from(memory.buffer as ArrayBuffer, at, taken));
        left -= taken;
      }
      this.#host.charge(MAX_WRITE_BYTES - left);
      memory.setUint32(written >>> 0, MAX_WRITE_BYTES - left, true);
    });
    return fits ? errno : ERRNO.fault;
  }

  #print(fd: number, bytes: Buffer<ArrayBuffer>): void {
    const level = LEVELS[fd] ?? 'info';
    const rest = (this.#rest[fd] ??= { bytes: Buffer.alloc(MAX_LINE_BYTES), length: 0 });
    for (let start = 0; start < bytes.length;) {
      const end = bytes.indexOf(10, start);
      const room = start + MAX_LINE_BYTES - rest.length;
      const until = Math.min(end < 0 ? bytes.length : end, room);
      rest.length += bytes.copy(rest.bytes, rest.length, start, until);
      const ended = until === end;
      if (ended || until === room) {
        this.#host.charge(LINE_WEIGHT_BYTES);
        this.#line(level, rest);
      }
      start = ended ? until + 1 : until;
    }
  }

  #line(level: LogLevel, rest: Rest): void {
    const text = rest.bytes.toString('utf8', 0, rest.length);
    rest.length = 0;
    this.#host.line(level, text);
  }
}

/** The beginning of a line whose end has not come. */
interface Rest {
  readonly bytes: Buffer<ArrayBuffer>;
  length: number;
}

function isOpen(fd: number): boolean {
  return fd === 0 || LEVELS[fd] !== undefined;
}

/** In whole milliseconds: a guest measures no finer. */
function now(monotonic: boolean): bigint {
  return BigInt(Math.floor(monotonic ? performance.now() : Date.now())) * 1_000_000n;
}
