/**
 * The loader of WebAssembly plugins: judges modules, compiles them away from the host's thread, and
 * answers runtimes whose calls go through the pool of sandbox threads.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { NoaError } from '@noa/sdk/host';
import type { Limits, Manifest } from '@noa/sdk/host';
import type { LoadRequest, Loader, Runtime, RuntimeCall } from '../../kernel/loader.ts';
import { admit } from './admission.ts';
import type { BytesTable } from './attachment.ts';
import { ModuleCache } from './module-cache.ts';
import { Plugin } from './plugin.ts';
import { Pool, gone } from './pool.ts';
import type { PluginUnit } from './protocol.ts';

export interface WasmLoaderOptions {
  /** Threads that serve calls, beside one spare. Default: one less than the processors, 1 to 8. */
  readonly threads?: number;
  /**
   * Memory of all instances of the serving threads together, in MiB. Default: 512 a thread and at least
   * 1024, but no more than half of the machine's.
   */
  readonly memoryMiB?: number;
  /** Largest module, in bytes. Default 32 MiB. */
  readonly maxModuleBytes?: number;
  /** Calls that one thread holds, waiting ones included; beyond it RESOURCE_EXHAUSTED. Default 256. */
  readonly callsPerThread?: number;
  /** Calls of one thread that may have begun and wait for a capability. Default 64. */
  readonly suspendedPerThread?: number;
  /** Instances of one thread that are kept for the next call. Default 64. */
  readonly idleInstances?: number;
  /** How long an instance is kept without a call, in ms. Default 15,000. */
  readonly idleMs?: number;
  /** Largest request to a capability, in bytes. Default 1 MiB. */
  readonly maxRequestBytes?: number;
  /** Largest reply of a capability, in bytes. Default 4 MiB. */
  readonly maxReplyBytes?: number;
  /** Where capabilities take and answer bytes, from `bytesTable`. Default: nowhere. */
  readonly bytes?: BytesTable;
}

const MIB = 1 << 20;
const COMPILE_MS = 30_000;
/** Longest run of a module's start function at inspection. */
const START_MS = 1000;
/** The same at a load, where the thread may have other work before it. */
const WARM_MS = 10_000;

function asset(name: string): WebAssembly.Module {
  return new WebAssembly.Module(readFileSync(new URL(name, import.meta.url)));
}

function defaultMemoryMiB(threads: number): number {
  return Math.min(Math.max(1024, 512 * threads), Math.floor(totalmem() / 2 / MIB));
}

export function createWasmLoader(options: WasmLoaderOptions = {}): Loader {
  const threads = options.threads ?? Math.min(8, Math.max(1, availableParallelism() - 1));
  const maxModuleBytes = options.maxModuleBytes ?? 32 * MIB;
  const pool = new Pool({
    threads,
    jobsPerThread: options.callsPerThread ?? 256,
    replyBytes: options.maxReplyBytes ?? 4 * MIB,
    bytes: options.bytes,
    bounds: {
      fibers: options.suspendedPerThread ?? 64,
      memoryBytes: Math.floor(((options.memoryMiB ?? defaultMemoryMiB(threads)) * MIB) / threads),
      idleInstances: options.idleInstances ?? 64,
      idleMs: options.idleMs ?? 15_000,
      requestBytes: options.maxRequestBytes ?? MIB,
    },
    arena: asset('./arena.wasm'),
    fiber: asset('./fiber.wasm'),
  });
  const modules = new ModuleCache((bytes) => compile(pool, bytes));
  let lastPlugin = 0;
  let closing: Promise<void> | undefined;

  const plugin = (name: string, spec: PluginUnit, listener: Pick<LoadRequest, 'log' | 'harmed'>) =>
    new Plugin((lastPlugin += 1), name, spec, listener);

  return {
    async inspect(manifest: Manifest, limits: Limits, wasm: Uint8Array): Promise<void> {
      const { bytes, ...traits } = admit(manifest, limits, wasm, maxModuleBytes);
      const module = await compile(pool, bytes);
      const probe = plugin(
        manifest.name,
        { module, ...traits, config: '{}', limits },
        { log: () => undefined },
      );
      try {
        await warm(pool, probe, START_MS, 'spare');
      } catch (error) {
        const why = error instanceof NoaError ? error.message : 'it cannot be instantiated.';
        throw new NoaError(
          'INVALID_ARGUMENT',
          `runtime.file: The module fails before its first call: ${why} Keep work out of the start function and the top level.`,
          { cause: error },
        );
      } finally {
        await pool.unload(probe);
      }
    },

    async load(request: LoadRequest): Promise<Runtime> {
      const { limits, manifest } = request;
      const { bytes, ...traits } = admit(manifest, limits, request.wasm, maxModuleBytes);
      const digest = createHash('sha256').update(bytes).digest('base64');
      const module = await modules.take(digest, bytes);
      const config = JSON.stringify(request.config);
      const loaded = plugin(request.plugin, { module, ...traits, config, limits }, request);
      pool.enter(loaded);
      let stopping: Promise<void> | undefined;
      const stop = (): Promise<void> =>
        (stopping ??= pool.unload(loaded).finally(() => modules.release(digest)));
      try {
        await warm(pool, loaded, WARM_MS, 'serving');
      } catch (error) {
        await stop();
        throw error;
      }
      return {
        call: (call) =>
          stopping === undefined
            ? run(pool, loaded, call, manifest.exports[call.export]?.timeoutMs)
            : Promise.reject(new NoaError('UNAVAILABLE', `The plugin ${loaded.name} was stopped.`)),
        stats: () => loaded.stats(),
        stop,
      };
    },

    close: () => (closing ??= pool.close()),
  };
}

function compile(pool: Pool, bytes: Uint8Array): Promise<WebAssembly.Module> {
  return new Promise((resolve, reject) => {
    pool.submit(
      {
        message: (id) => ['compile', id, bytes],
        expires: performance.now() + COMPILE_MS,
        allowanceMs: COMPILE_MS,
        expired: `The module took more than ${COMPILE_MS} ms to compile.`,
        compiled: resolve,
        failed: reject,
      },
      'spare',
    );
  });
}

function warm(pool: Pool, plugin: Plugin, ms: number, to: 'serving' | 'spare'): Promise<unknown> {
  return new Promise((resolve, reject) => {
    pool.submit(
      {
        plugin,
        message: (id) => ['warm', id, plugin.id],
        expires: performance.now() + ms,
        allowanceMs: ms,
        expired: `Its start function did not end within ${ms} ms.`,
        done: resolve,
        failed: reject,
      },
      to,
    );
  });
}

function run(
  pool: Pool,
  plugin: Plugin,
  call: RuntimeCall,
  exportMs: number | undefined,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const { limits } = plugin.spec;
    const inputBytes = Buffer.byteLength(call.input);
    if (inputBytes > limits.maxInputBytes) {
      const words = `The input has ${inputBytes} bytes; limits.maxInputBytes of ${plugin.name} is ${limits.maxInputBytes}.`;
      return reject(new NoaError('PAYLOAD_TOO_LARGE', words));
    }
    const expired = `${plugin.name}/${call.export} did not answer before its deadline.`;
    const remaining = call.deadline - Date.now();
    if (remaining <= 0) return reject(new NoaError('DEADLINE_EXCEEDED', expired));
    if (call.signal.aborted) return reject(gone());
    pool.submit({
      plugin,
      message: (id) => ['call', id, plugin.id, call.export, call.input, inputBytes],
      expires: performance.now() + remaining,
      allowanceMs: Math.min(exportMs ?? limits.timeoutMs, limits.timeoutMs),
      expired,
      bytes: inputBytes,
      call,
      done: resolve,
      failed: reject,
    });
  });
}
