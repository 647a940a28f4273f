/**
 * The embedded store: the process that keeps the vectors, started when it is first needed and again when it
 * has ended. Invariants: a request that was under way at its end is asked once more, which all of them bear,
 * so that callers notice a delay; one that ends the process again and again fails alone.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { bareEnvironment, NoaError } from '@noa/sdk/host';
import type { VectorStore } from '../store.ts';
import { asError, type Method, type Reply, type Request } from './protocol.ts';

export interface EmbeddedOptions {
  readonly folder: string;
  /** Points that all collections of one space may have together. */
  readonly maxPoints: number;
  /** `exact` does without zvec. */
  readonly engine?: 'auto' | 'exact';
  readonly warn: (message: string) => void;
}

const FILE = fileURLToPath(new URL('./child.ts', import.meta.url));
/** Open requests; a further one is refused. */
const MAX_OPEN = 1024;
/** Times that one request may see the process end. */
const MAX_ENDS = 3;
const MAX_PAUSE_MS = 5000;
/** A process that lived this long has shown that it can. */
const STABLE_MS = 30_000;
const CHECK_MS = 2000;
/** Of payloads; vectors lie outside of the heap. */
const HEAP_MB = 4096;

interface Open {
  readonly request: Request;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  ends: number;
}

export interface EmbeddedStore extends VectorStore {
  /** Of the process that runs now. */
  readonly pid: number | undefined;
}

export function openEmbeddedStore(options: EmbeddedOptions): EmbeddedStore {
  const keeper = new Keeper(options);
  const asked =
    (method: Method) =>
    (...args: unknown[]): Promise<never> =>
      keeper.ask(method, args) as Promise<never>; // the process has the same methods
  return {
    system: 'embedded',
    list: asked('list'),
    describe: asked('describe'),
    create: asked('create'),
    drop: asked('drop'),
    alias: asked('alias'),
    unalias: asked('unalias'),
    upsert: asked('upsert'),
    search: asked('search'),
    scroll: asked('scroll'),
    delete: asked('delete'),
    dropSpace: asked('dropSpace'),
    check: () => keeper.check(),
    close: () => keeper.close(),
    get pid() {
      return keeper.pid;
    },
  };
}

class Keeper {
  readonly #options: EmbeddedOptions;
  readonly #open = new Map<number, Open>();
  #child: ChildProcess | undefined;
  #last = 0;
  #ends = 0;
  #pause: NodeJS.Timeout | undefined;
  #isClosed = false;
  #told = false;

  constructor(options: EmbeddedOptions) {
    this.#options = options;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  ask(method: Method, args: readonly unknown[]): Promise<unknown> {
    if (this.#isClosed) return Promise.reject(away('the host stops'));
    if (this.#open.size >= MAX_OPEN) {
      const text = `vector: ${MAX_OPEN} requests wait already; try again`;
      return Promise.reject(new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 1000 }));
    }
    this.#last += 1;
    const request = { id: this.#last, method, args };
    return new Promise((resolve, reject) => {
      this.#open.set(request.id, { request, resolve, reject, ends: 0 });
      if (this.#child === undefined) this.#startSoon();
      else this.#post(request);
    });
  }

  /** Answers within its time whether the process does; without one there is nothing to fail. */
  async check(): Promise<void> {
    if (this.#child === undefined && this.#open.size === 0) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(away('the process does not answer')), CHECK_MS);
    });
    await Promise.race([this.ask('list', ['.check']), late]).finally(() => clearTimeout(timer));
  }

  #startSoon(): void {
    if (this.#pause !== undefined) return;
    const wait = this.#ends <= 1 ? 0 : Math.min(MAX_PAUSE_MS, 100 * 2 ** (this.#ends - 2));
    this.#pause = setTimeout(() => {
      this.#pause = undefined;
      if (!this.#isClosed) this.#start();
    }, wait);
  }

  #start(): void {
    const { folder, maxPoints, engine = 'auto' } = this.#options;
    const startedAt = performance.now();
    const child = fork(FILE, [folder, String(maxPoints), engine], {
      env: bareEnvironment(),
      execArgv: [`--max-old-space-size=${HEAP_MB}`, '--disable-warning=ExperimentalWarning'],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#child = child;
    child.on('message', (reply: Reply) => this.#received(reply));
    child.on('error', (error) => this.#ended(child, error.message, startedAt));
    child.on('exit', (code, signal) =>
      this.#ended(child, `it ended with ${signal ?? code}`, startedAt),
    );
    for (const { request } of this.#open.values()) this.#post(request);
  }

  #post(request: Request): void {
    const child = this.#child;
    if (child?.connected === true) child.send(request);
  }

  #received(reply: Reply): void {
    if (reply.type === 'ready') this.#ready(reply);
    else if (reply.type === 'trouble') this.#options.warn(reply.message);
    else {
      const open = this.#open.get(reply.id);
      this.#open.delete(reply.id);
      if (reply.type === 'answer') open?.resolve(reply.value);
      else open?.reject(asError(reply.code, reply.message));
    }
  }

  #ready({ engine, reason }: Extract<Reply, { type: 'ready' }>): void {
    if (engine === 'zvec' || reason === undefined || this.#told) return;
    this.#told = true;
    const words =
      'zvec cannot be loaded here: vectors are searched by looking at each, which is slow with many';
    this.#options.warn(`${words} (${reason})`);
  }

  #ended(child: ChildProcess, reason: string, startedAt: number): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    if (this.#isClosed) return;
    this.#ends = performance.now() - startedAt > STABLE_MS ? 1 : this.#ends + 1;
    this.#options.warn(`the process that keeps the vectors is started again: ${reason}`);
    // What runs first is what it died of, if it was a request.
    const [first] = this.#open.values();
    if (first !== undefined) {
      first.ends += 1;
      if (first.ends >= MAX_ENDS) {
        this.#open.delete(first.request.id);
        first.reject(away(`the process that keeps the vectors ended ${MAX_ENDS} times over this`));
      }
    }
    if (this.#open.size > 0) this.#startSoon();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#pause);
    for (const { reject } of this.#open.values()) reject(away('the host stops'));
    this.#open.clear();
    const child = this.#child;
    if (child === undefined) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL'); // Its writes are on disk, and it may be tending an index for a minute.
    await ended;
  }
}

function away(reason: string): NoaError {
  return new NoaError('UNAVAILABLE', `vector: ${reason}; try again`, { retryAfterMs: 1000 });
}
