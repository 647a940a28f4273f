/**
 * The host's end of the process of one plugin: starts it, asks it, watches its deadlines and ends it.
 * The process is taken to be in the plugin's hands. Invariants: what it may send is bounded by what it
 * was asked, one answer each; an answer reaches the call that it names and no other, because numbers are
 * never used twice; and whatever it does or leaves undone, every call ends within its deadline.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { NoaError } from '@noa/sdk/host';
import type { LoadRequest, RuntimeCall, RuntimeStats } from '../../kernel/loader.ts';
import { answer } from '../wasm/door.ts';
import { gone } from '../wasm/pool.ts';
import { printable } from '../wasm/text.ts';
import { Channel } from './channel.ts';
import { CHANNEL } from './contract.ts';
import { type Frame, FrameError, KIND } from './frames.ts';
import {
  MAX_ERROR_BYTES,
  readCost,
  readFailure,
  readHarm,
  readLevel,
  readLine,
  readRequestHead,
  readText,
  readUsage,
} from './replies.ts';
import { StandardError } from './stderr.ts';

const TICK_MS = 5;
/** By `env`, because what instruments this process (a tracer, a test runner) adds to the environment of others. */
const EMPTIED = '/usr/bin/env';
/** How long the process may take to let go of a call that is over: it is ended after that. */
const GRACE_MS = 2000;
/** How long the end of the channel waits for the end of the process. */
const EXIT_MS = 50;
/** Inputs that the process holds, and replies that it has not read. */
const MAX_HELD_BYTES = 64 << 20;
/** Capability calls of one call that run at the same time; a module waits for each. */
const MAX_INVOKES = 64;
/** Over what the sandbox in an honest process lets through. */
const LINES_PER_SECOND = 1000;
/** Frames a second that nothing was asked for: beyond it the process does nothing else. */
const MAX_UNASKED = 20_000;
const MAX_HEAD_BYTES = 64;
const MAX_REASON_CHARS = 2000;

/** Signals that the operator or a machine short of memory sends; all others come of what the code did. */
const ENDED_BY_OTHERS: ReadonlySet<NodeJS.Signals | null> = new Set<NodeJS.Signals>([
  'SIGKILL',
  'SIGTERM',
  'SIGINT',
  'SIGHUP',
]);

const BUSY = JSON.stringify({
  ok: false,
  error: { code: 'RESOURCE_EXHAUSTED', message: 'The sandbox holds too many large replies.' },
});

export interface ProcessOptions {
  readonly plugin: string;
  readonly command: readonly [string, ...string[]];
  readonly requestBytes: number;
  readonly replyBytes: number;
  /** One output, in bytes. */
  readonly outputBytes: number;
  /** How long a call that is over may still run, from its start on, before the grace begins. */
  readonly mayRunMs: number;
  /** Hears what the plugin logs and does to what runs it. */
  readonly listener: Pick<LoadRequest, 'log' | 'harmed'>;
  /** It ended by itself or for what it did; for the operator. Not called after `stop`. */
  readonly onEnd: (reason: string) => void;
}

interface Ask {
  readonly resolve: (output: string) => void;
  readonly reject: (error: NoaError) => void;
  /** By `performance.now()`, as is `expires`. */
  readonly since: number;
  readonly expires: number;
  readonly expired: string;
  readonly call: RuntimeCall | undefined;
  /** Of its input. */
  readonly bytes: number;
  abort: AbortController | undefined;
  invokes: number;
  /** Set once the caller was answered while the process still holds the call: when to end the process. */
  reapAt: number | undefined;
}

export class GuestProcess {
  readonly startedAt = performance.now();
  /** Resolves when the process is gone. */
  readonly ended: Promise<void>;
  usedAt = performance.now();
  readonly #options: ProcessOptions;
  readonly #child: ChildProcess;
  readonly #channel: Channel;
  readonly #asks = new Map<number, Ask>();
  #lastId = 0;
  #heldBytes = 0;
  #ticker: NodeJS.Timeout | undefined;
  #stats: RuntimeStats = { instances: 0, memoryBytes: 0 };
  /** Why nothing more can be asked of it. */
  #over: NoaError | undefined;
  readonly #stderr = new StandardError();
  #second = 0;
  #unasked = 0;
  #lines = 0;

  constructor(options: ProcessOptions) {
    this.#options = options;
    const child = spawn(EMPTIED, ['-i', ...options.command], {
      cwd: '/',
      env: {},
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      // A process group of its own: Ctrl-C in a terminal is the host's, which ends it in order.
      detached: true,
    });
    this.#child = child;
    const socket = child.stdio[CHANNEL];
    if (!(socket instanceof Socket)) throw new TypeError('the process has no channel');
    const bodyBytes = Math.max(options.outputBytes, options.requestBytes, MAX_ERROR_BYTES);
    this.#channel = new Channel(
      socket,
      {
        received: (frame) => this.#received(frame),
        broken: (error) => this.#broken(error),
        closed: () => this.#closed(),
      },
      { headBytes: MAX_HEAD_BYTES, bodyBytes },
    );
    child.stderr?.on('data', (chunk: Buffer) => {
      const breach = this.#stderr.add(chunk);
      if (breach !== undefined) this.#broken(breach);
    });
    this.ended = new Promise((resolve) => {
      child.once('error', (error) => {
        this.#end(this.#lost(), `cannot be started: ${error.message}`);
        if (child.pid === undefined) resolve();
      });
      child.once('exit', (code, signal) => {
        if (!this.isOver && !ENDED_BY_OTHERS.has(signal)) options.listener.harmed?.('crashed');
        this.#end(this.#lost(), signal === null ? `ended with status ${code}` : `got ${signal}`);
        resolve();
      });
    });
    // Where memory runs out, this process goes before the host. It may be gone already.
    if (process.platform === 'linux' && child.pid !== undefined) {
      writeFile(`/proc/${child.pid}/oom_score_adj`, '1000').catch(() => undefined);
    }
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  get isOver(): boolean {
    return this.#over !== undefined;
  }

  get isIdle(): boolean {
    return this.#asks.size === 0;
  }

  get stats(): RuntimeStats {
    return this.#stats;
  }

  /** Has the process load or inspect a module within `ms`. */
  ask(kind: number, head: string, body: Uint8Array, ms: number, expired: string): Promise<string> {
    return this.#ask(kind, head, body, performance.now() + ms, expired, undefined);
  }

  /** Rejects as `Runtime.call` does. */
  call(call: RuntimeCall): Promise<string> {
    const expired = `${this.#options.plugin}/${call.export} did not answer before its deadline.`;
    const remaining = call.deadline - Date.now();
    if (remaining <= 0) return Promise.reject(new NoaError('DEADLINE_EXCEEDED', expired));
    if (call.signal.aborted) return Promise.reject(gone());
    const expires = performance.now() + remaining;
    const unsent = { input: undefined, signal: undefined, invoke: undefined };
    const head = JSON.stringify({ ...call, ...unsent });
    return this.#ask(KIND.call, head, call.input, expires, expired, call);
  }

  /** Ends it in the middle of whatever it does; what it was asked is rejected with `error`. */
  async stop(error: NoaError): Promise<void> {
    this.#end(error, undefined);
    await this.ended;
  }

  #ask(
    kind: number,
    head: string,
    body: string | Uint8Array,
    expires: number,
    expired: string,
    call: RuntimeCall | undefined,
  ): Promise<string> {
    return new Promise((resolve, reject) => {
      if (this.#over !== undefined) return reject(this.#over);
      if (this.#heldBytes + body.length > MAX_HELD_BYTES) {
        const words = 'The process of the plugin has too much to do; try again.';
        return reject(new NoaError('RESOURCE_EXHAUSTED', words, { retryAfterMs: 1000 }));
      }
      this.#lastId += 1;
      this.#heldBytes += body.length;
      const since = performance.now();
      const asked = { resolve, reject, since, expires, expired, call, bytes: body.length };
      this.#asks.set(this.#lastId, { ...asked, abort: undefined, invokes: 0, reapAt: undefined });
      this.#channel.send(kind, this.#lastId, head, body);
      this.#ticker ??= setInterval(() => this.#tick(), TICK_MS);
    });
  }

  #received({ kind, id, head, body }: Frame): void {
    if (kind === KIND.log || kind === KIND.usage || kind === KIND.harmed) {
      return this.#unaskedFor(kind, head, body);
    }
    const ask = this.#asks.get(id);
    if (ask === undefined) throw new FrameError('an answer to what was not asked');
    if (kind === KIND.invoke) return this.#invoke(id, ask, head, readText(body));
    if (kind !== KIND.done && kind !== KIND.failed) throw new FrameError(`an unknown kind ${kind}`);
    const cost = readCost(head);
    if (cost !== undefined) ask.call?.spent?.(cost);
    const outcome = kind === KIND.done ? this.#output(body) : readFailure(body);
    this.#asks.delete(id);
    this.#heldBytes -= ask.bytes;
    this.usedAt = performance.now();
    ask.abort?.abort(typeof outcome === 'string' ? gone() : outcome);
    if (ask.reapAt !== undefined) return;
    if (typeof outcome === 'string') ask.resolve(outcome);
    else ask.reject(outcome);
  }

  #output(body: Buffer): string {
    const { outputBytes } = this.#options;
    if (body.length > outputBytes) throw new FrameError(`an output of ${body.length} bytes`);
    return readText(body);
  }

  #unaskedFor(kind: number, head: string, body: Buffer): void {
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.#second) {
      this.#reportLost();
      this.#second = second;
      this.#unasked = 0;
      this.#lines = 0;
    }
    this.#unasked += 1;
    if (this.#unasked > MAX_UNASKED) throw new FrameError(`over ${MAX_UNASKED} frames a second`);
    const { listener } = this.#options;
    if (kind === KIND.usage) this.#stats = readUsage(head);
    else if (kind === KIND.harmed) listener.harmed?.(readHarm(head));
    else {
      const level = readLevel(head);
      this.#lines += 1;
      if (this.#lines <= LINES_PER_SECOND) listener.log(level, readLine(body));
    }
  }

  #reportLost(): void {
    const lost = this.#lines - LINES_PER_SECOND;
    if (lost > 0) this.#options.listener.log('warn', `${lost} log lines were dropped`);
    this.#lines = 0;
  }

  #invoke(id: number, ask: Ask, head: string, request: string): void {
    const { call } = ask;
    const { number, cost } = readRequestHead(head);
    if (call === undefined) throw new FrameError('a capability request outside a call');
    if (ask.reapAt !== undefined) return; // Sent before it heard that the call is over.
    if (ask.invokes >= MAX_INVOKES) throw new FrameError('too many capability requests at once');
    if (cost !== undefined) call.spent?.(cost);
    ask.invokes += 1;
    ask.abort ??= new AbortController();
    const { replyBytes } = this.#options;
    void answer(request, call, ask.abort.signal, replyBytes).then((envelope) => {
      ask.invokes -= 1;
      if (ask.reapAt !== undefined || this.#asks.get(id) !== ask) return;
      const fits = this.#channel.waitingBytes + envelope.length <= MAX_HELD_BYTES;
      this.#channel.send(KIND.reply, id, String(number), fits ? envelope : BUSY);
    });
  }

  #tick(): void {
    const now = performance.now();
    for (const [id, ask] of this.#asks) {
      if (ask.reapAt !== undefined) {
        if (now < ask.reapAt) continue;
        this.#options.listener.harmed?.('overran');
        return this.#end(this.#lost(), 'did not end a call that was over');
      } else if (now >= ask.expires) {
        this.#giveUp(id, ask, new NoaError('DEADLINE_EXCEEDED', ask.expired));
      } else if (ask.call?.signal.aborted === true) this.#giveUp(id, ask, gone());
    }
    if (this.#asks.size > 0) return;
    clearInterval(this.#ticker);
    this.#ticker = undefined;
  }

  /** Answers the caller at once; the process has the grace to let go of the call. */
  #giveUp(id: number, ask: Ask, error: NoaError): void {
    ask.reapAt = Math.max(performance.now(), ask.since + this.#options.mayRunMs) + GRACE_MS;
    ask.reject(error);
    ask.abort?.abort(error);
    this.#channel.send(KIND.cancel, id, '');
  }

  /** The end of the process says more, and mostly follows at once. */
  #closed(): void {
    const end = (): void => this.#end(this.#lost(), 'closed its channel');
    if (!this.isOver) setTimeout(end, EXIT_MS).unref();
  }

  #broken(error: FrameError): void {
    const words = `The process of the plugin ${this.#options.plugin} broke the protocol and was ended.`;
    this.#options.listener.harmed?.('crashed');
    this.#end(new NoaError('PLUGIN_TRAP', words), `sent ${error.message}`);
  }

  #lost(): NoaError {
    const words = `The process of the plugin ${this.#options.plugin} ended in the middle; try again.`;
    return new NoaError('UNAVAILABLE', words, { retryAfterMs: 50 });
  }

  #end(error: NoaError, reason: string | undefined): void {
    if (this.#over !== undefined) return;
    this.#over = error;
    clearInterval(this.#ticker);
    this.#reportLost();
    this.#stats = { instances: 0, memoryBytes: 0 };
    this.#child.kill('SIGKILL');
    this.#channel.close();
    this.#child.stderr?.destroy();
    for (const ask of this.#asks.values()) {
      if (ask.reapAt === undefined) ask.reject(error);
      ask.abort?.abort(error);
    }
    this.#asks.clear();
    if (reason === undefined) return;
    const said = this.#stderr.text;
    this.#options.onEnd(
      said === '' ? reason : `${reason}; it said: ${printable(said, MAX_REASON_CHARS)}`,
    );
  }
}
