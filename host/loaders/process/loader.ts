/**
 * The loader of plugins that are marked untrusted: each has a process of its own, made for it alone, in
 * which the same sandbox runs as in the host. One process a plugin rather than one for all of them: a
 * plugin that breaks out of the sandbox meets no memory, no call and no configuration but its own.
 */
import { NoaError } from '@noa/sdk/host';
import type { Limits, Manifest } from '@noa/sdk/host';
import type { Isolation, LoadRequest, Loader } from '../../kernel/loader.ts';
import type { WasmLoaderOptions } from '../wasm/loader.ts';
import { type InspectHead, MIB, requestBytes, UNFOLDED } from './contract.ts';
import { KIND } from './frames.ts';
import { GuestProcess } from './guest-process.ts';
import { IsolatedRuntime } from './runtime.ts';
import { type Walls, planWalls } from './walls.ts';

/** Linear memory of all instances of one process, unless a single one may have more. */
const MEMORY_MIB = 512;
/** Start of the process, compilation and the module's start function. */
const START_MS = 45_000;
/** Processes that start at the same time: a host with many such plugins starts them in turn. */
const STARTING = 2;

/** What the processes are for, and what surrounds them. */
export interface Tier {
  readonly isolation: Isolation;
  /** Completes "… run without". */
  readonly plugins: string;
  plan(hidden: readonly string[]): Promise<Walls>;
  /**
   * How long a call may go on in its process once nobody waits for it, from its start on: nothing where
   * the sandbox ends it, up to the plugin's own limit where only an end of the process would.
   */
  mayRunMs(limits: Limits): number;
}

const UNTRUSTED: Tier = {
  isolation: 'process',
  plugins: 'untrusted plugins',
  plan: planWalls,
  mayRunMs: () => 0,
};

export interface ProcessLoaderOptions extends WasmLoaderOptions {
  /** Processes at one time; a plugin more is refused. Default 64. */
  readonly processes?: number;
  /** How long a process without a call is kept, in ms; the next call starts another. Default 300,000. */
  readonly idleProcessMs?: number;
  /** Folders that no process may see into, such as the host's data. */
  readonly hidden?: readonly string[];
  /** Absent: for untrusted plugins. */
  readonly tier?: Tier;
  /** What the operator should know: walls that are missing (once), processes that ended by themselves. */
  readonly onNotice?: (message: string, about: { plugin?: string; pid?: number }) => void;
}

export function createProcessLoader(options: ProcessLoaderOptions = {}): Loader {
  const { processes = 64, idleProcessMs = 300_000, hidden = [], ...rest } = options;
  const { onNotice = () => undefined, tier = UNTRUSTED, ...given } = rest;
  // One plugin's calls: a second thread is the spare.
  const wasm: WasmLoaderOptions = { threads: 1, ...given };
  const runtimes = new Set<IsolatedRuntime>();
  const turns = new Turns(STARTING);
  const live = new Set<GuestProcess>();
  let walls: Promise<Walls> | undefined;
  let closed = false;

  const plan = (): Promise<Walls> => {
    walls ??= tier.plan(hidden).then((planned) => {
      if (planned.missing.length > 0) {
        onNotice(`${tier.plugins} run without ${planned.missing.join('; without ')}`, {});
      }
      return planned;
    });
    return walls;
  };

  /** A process that has answered `kind`; nothing is left of one that has not. */
  const start = (
    plugin: string,
    kind: number,
    head: string,
    module: Uint8Array,
    limits: Limits,
    listener: Pick<LoadRequest, 'log' | 'harmed'>,
    onEnd: (reason: string) => void,
  ): Promise<GuestProcess> =>
    turns.take(async () => {
      const planned = await plan();
      if (closed) throw shutDown();
      if (live.size >= processes) {
        const words = `There are ${processes} plugins with a process of their own already.`;
        throw new NoaError('RESOURCE_EXHAUSTED', words);
      }
      const child = new GuestProcess({
        plugin,
        command: planned.command([plugin], limits),
        requestBytes: requestBytes(wasm) + REQUEST_MARGIN,
        replyBytes: UNFOLDED * (wasm.maxReplyBytes ?? 4 * MIB),
        outputBytes: limits.maxOutputBytes,
        mayRunMs: tier.mayRunMs(limits),
        listener,
        onEnd,
      });
      live.add(child);
      void child.ended.then(() => live.delete(child));
      try {
        const expired = `The process of the plugin ${plugin} was not ready within ${START_MS} ms.`;
        await child.ask(kind, head, module, START_MS, expired);
        return child;
      } catch (error) {
        await child.stop(shutDown());
        throw error;
      }
    });

  return {
    async inspect(manifest: Manifest, limits: Limits, module: Uint8Array): Promise<void> {
      const head = JSON.stringify({ options: wasm, manifest, limits } satisfies InspectHead);
      const quiet = (): void => undefined;
      try {
        const child = await start(
          manifest.name,
          KIND.inspect,
          head,
          module,
          limits,
          { log: quiet },
          quiet,
        );
        await child.stop(shutDown());
      } catch (cause) {
        if (!(cause instanceof NoaError) || cause.code !== 'PLUGIN_TRAP') throw cause;
        const words = 'runtime.file: The module brought down the process that inspected it.';
        throw new NoaError('INVALID_ARGUMENT', words, { cause });
      }
    },

    async load(request: LoadRequest): Promise<IsolatedRuntime> {
      const { plugin, limits, wasm: module } = request;
      const memoryMiB = Math.max(wasm.memoryMiB ?? MEMORY_MIB, limits.memoryMiB);
      const kept = { ...request, wasm: undefined };
      const head = JSON.stringify({ options: { ...wasm, memoryMiB }, request: kept });
      const runtime = new IsolatedRuntime({
        plugin,
        isolation: tier.isolation,
        limits,
        idleMs: idleProcessMs,
        start: (onEnd) => start(plugin, KIND.load, head, module, limits, request, onEnd),
        onEnd: (reason) => onNotice(`the process of the plugin ${plugin} ${reason}`, { plugin }),
        onStop: () => runtimes.delete(runtime),
      });
      runtimes.add(runtime);
      try {
        await runtime.ready();
      } catch (error) {
        await runtime.stop();
        throw error;
      }
      return runtime;
    },

    async close(): Promise<void> {
      closed = true;
      const ends = [...live].map((child) => child.stop(shutDown()));
      await Promise.all([...ends, ...[...runtimes].map((runtime) => runtime.stop())]);
    },
  };
}

/** The names around the arguments of a request, which the sandbox writes anew in the process. */
const REQUEST_MARGIN = 4096;

function shutDown(): NoaError {
  return new NoaError('UNAVAILABLE', 'The sandbox was shut down.');
}

/** So many tasks at a time; the others wait in order. */
class Turns {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async take<T>(task: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}
