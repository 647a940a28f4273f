/**
 * One untrusted plugin over the processes that it has one after another. Invariant: at most one process
 * at a time; one that ends is replaced by the next call, after a pause that grows while they keep ending.
 */
import type { Limits } from '@noa/sdk/host';
import { NoaError } from '@noa/sdk/host';
import type { Isolation, Runtime, RuntimeCall, RuntimeStats } from '../../kernel/loader.ts';
import { gone } from '../wasm/pool.ts';
import type { GuestProcess } from './guest-process.ts';

/** A process that lived this long has shown that it can. */
const STABLE_MS = 30_000;
const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 30_000;

export interface IsolatedOptions {
  readonly plugin: string;
  readonly isolation: Isolation;
  readonly limits: Limits;
  readonly idleMs: number;
  /** A process that has loaded the plugin; `onEnd` hears of its end unless it is stopped. */
  readonly start: (onEnd: (reason: string) => void) => Promise<GuestProcess>;
  readonly onEnd: (reason: string) => void;
  readonly onStop: () => void;
}

export class IsolatedRuntime implements Runtime {
  readonly isolation: Isolation;
  readonly #options: IsolatedOptions;
  #process: GuestProcess | undefined;
  #starting: Promise<GuestProcess> | undefined;
  /** Processes that ended in a row, none of them stable. */
  #ends = 0;
  #retryAt = 0;
  readonly #idle: NodeJS.Timeout;
  #stopping: Promise<void> | undefined;

  constructor(options: IsolatedOptions) {
    this.#options = options;
    this.isolation = options.isolation;
    this.#idle = setInterval(() => this.#endIdle(), options.idleMs);
    this.#idle.unref();
  }

  /** Resolves when a process has loaded the plugin. */
  async ready(): Promise<void> {
    await this.#start();
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  call(call: RuntimeCall): Promise<string> {
    const { plugin, limits } = this.#options;
    if (this.#stopping !== undefined) return Promise.reject(this.#stopped());
    const inputBytes = Buffer.byteLength(call.input);
    if (inputBytes > limits.maxInputBytes) {
      const words = `The input has ${inputBytes} bytes; limits.maxInputBytes of ${plugin} is ${limits.maxInputBytes}.`;
      return Promise.reject(new NoaError('PAYLOAD_TOO_LARGE', words));
    }
    const process = this.#process;
    return process === undefined || process.isOver ? this.#callNext(call) : process.call(call);
  }

  stats(): RuntimeStats {
    return this.#process?.stats ?? { instances: 0, memoryBytes: 0 };
  }

  stop(): Promise<void> {
    return (this.#stopping ??= this.#stop());
  }

  async #stop(): Promise<void> {
    clearInterval(this.#idle);
    this.#options.onStop();
    await this.#process?.stop(this.#stopped());
    // A process that was starting finds the runtime stopped, and has been ended when this settles.
    await this.#starting?.catch(() => undefined);
  }

  /** Through a process that has to start; the call's own deadline and caller bound the wait. */
  async #callNext(call: RuntimeCall): Promise<string> {
    const wait = this.#retryAt - performance.now();
    if (wait > 0) {
      const words = `The process of the plugin ${this.#options.plugin} keeps ending; try again later.`;
      throw new NoaError('UNAVAILABLE', words, { retryAfterMs: Math.ceil(wait) });
    }
    const late = Promise.withResolvers<never>();
    const words = `${this.#options.plugin}/${call.export} did not answer before its deadline.`;
    const timer = setTimeout(
      () => late.reject(new NoaError('DEADLINE_EXCEEDED', words)),
      Math.max(0, call.deadline - Date.now()),
    );
    const leave = (): void => late.reject(gone());
    call.signal.addEventListener('abort', leave, { once: true });
    if (call.signal.aborted) leave();
    try {
      const process = await Promise.race([this.#start(), late.promise]);
      return await process.call(call);
    } finally {
      clearTimeout(timer);
      call.signal.removeEventListener('abort', leave);
    }
  }

  #start(): Promise<GuestProcess> {
    this.#starting ??= this.#startOne().finally(() => {
      this.#starting = undefined;
    });
    return this.#starting;
  }

  async #startOne(): Promise<GuestProcess> {
    const since = performance.now();
    let noted = false;
    const note = (): void => {
      if (!noted) this.#pause(performance.now() - since);
      noted = true;
    };
    const process = await this.#options
      .start((reason) => {
        this.#options.onEnd(reason);
        note();
      })
      .catch((error: unknown) => {
        note();
        throw error;
      });
    if (this.#stopping !== undefined) {
      await process.stop(this.#stopped());
      throw this.#stopped();
    }
    this.#process = process;
    return process;
  }

  /** The first end is answered by a new process at once. */
  #pause(livedMs: number): void {
    this.#ends = livedMs > STABLE_MS ? 1 : this.#ends + 1;
    const pause = this.#ends === 1 ? 0 : FIRST_PAUSE_MS * 2 ** Math.min(this.#ends - 2, 16);
    this.#retryAt = performance.now() + Math.min(MAX_PAUSE_MS, pause);
  }

  #endIdle(): void {
    const process = this.#process;
    if (process === undefined || process.isOver || !process.isIdle) return;
    if (performance.now() - process.usedAt < this.#options.idleMs) return;
    this.#process = undefined;
    void process.stop(this.#stopped());
  }

  #stopped(): NoaError {
    return new NoaError('UNAVAILABLE', `The plugin ${this.#options.plugin} was stopped.`);
  }
}
