/**
 * The loader of built-in plugins: parts of the host, run in its own process with the ports that all plugins
 * have. Invariants: only what this host brings runs here, by the very manifest that it brings; and its
 * handlers have no way to a driver but the door.
 */
import { isDeepStrictEqual } from 'node:util';
import { type Manifest, NoaError } from '@noa/sdk/host';
import type { Loader, LoadRequest, Runtime, RuntimeCall } from '../../kernel/loader.ts';
import { HandlerEngine, handlersOf } from '../handlers/engine.ts';
import { createPluginLog } from '../handlers/log.ts';
import { gone } from '../wasm/pool.ts';

export interface BuiltinPlugin {
  /** In the form in which a host of this version keeps it. */
  readonly manifest: Manifest;
  /** Its module, whose default export is a plugin's definition; imported when it is first loaded. */
  readonly module: () => Promise<unknown>;
}

export function createBuiltinLoader(plugins: readonly BuiltinPlugin[]): Loader {
  const admit = (manifest: Manifest): BuiltinPlugin => {
    const { name, version } = manifest;
    const what = `runtime.kind: "builtin" is for parts of the host, and`;
    const found = plugins.find((each) => each.manifest.name === name);
    if (found === undefined) {
      const has = plugins.map((each) => each.manifest.name).join(', ') || 'none';
      throw refused(`${what} ${name} is none of this one's (${has}): use "wasm"`);
    }
    if (isDeepStrictEqual(found.manifest, manifest)) return found;
    const own = found.manifest.version;
    throw refused(
      own === version
        ? `${what} this manifest of ${name} ${version} is not the one that this host brings`
        : `${what} this host brings ${name} ${own}, not ${version}: run a host of that version`,
    );
  };
  const running = new Set<BuiltinRuntime>();
  return {
    async inspect(manifest) {
      admit(manifest);
    },
    async load(request): Promise<Runtime> {
      const { module } = admit(request.manifest);
      const runtime = new BuiltinRuntime(request, await module(), () => running.delete(runtime));
      running.add(runtime);
      return runtime;
    },
    async close() {
      await Promise.all([...running].map((runtime) => runtime.stop()));
    },
  };
}

class BuiltinRuntime implements Runtime {
  readonly isolation = 'builtin';
  readonly #request: LoadRequest;
  readonly #engine: HandlerEngine;
  readonly #onStop: () => void;
  /** Aborts with why when the runtime stops. */
  readonly #stop = new AbortController();

  constructor(request: LoadRequest, module: unknown, onStop: () => void) {
    const { config, limits, manifest } = request;
    this.#request = request;
    this.#onStop = onStop;
    this.#engine = new HandlerEngine({
      config,
      limits,
      handlers: handlersOf(module, Object.keys(manifest.exports)),
      log: createPluginLog((level, line) => request.log(level, line)),
      isSequential: false,
      around: (_ports, run) => run(),
      // The whole stack is for the log of the plugin, which the host's own people read.
      isOwnFrame: () => true,
      stats: () => ({ instances: 1, memoryBytes: 0 }), // a part of the host's own
    });
  }

  /** What of the handler still runs at the end has no way to the host any more, and ends by that. */
  async call(call: RuntimeCall): Promise<string> {
    const { plugin, limits } = this.#request;
    if (this.#stop.signal.aborted) throw stopped(plugin);
    const inputBytes = Buffer.byteLength(call.input);
    if (inputBytes > limits.maxInputBytes) {
      const words = `The input has ${inputBytes} bytes; limits.maxInputBytes of ${plugin} is ${limits.maxInputBytes}.`;
      throw new NoaError('PAYLOAD_TOO_LARGE', words);
    }
    if (call.signal.aborted) throw gone();
    const ended = Promise.withResolvers<never>();
    const end = new AbortController();
    const finish = (error: NoaError): void => {
      ended.reject(error);
      end.abort();
    };
    const late = `${plugin}/${call.export} did not answer before its deadline.`;
    const timer = setTimeout(
      () => finish(new NoaError('DEADLINE_EXCEEDED', late)),
      Math.max(0, call.deadline - Date.now()),
    );
    const leave = (): void => finish(gone());
    const stop = (): void => finish(stopped(plugin));
    call.signal.addEventListener('abort', leave);
    this.#stop.signal.addEventListener('abort', stop);
    try {
      const answer = this.#engine.call({ ...call, signal: end.signal });
      return await Promise.race([answer, ended.promise]);
    } finally {
      clearTimeout(timer);
      call.signal.removeEventListener('abort', leave);
      this.#stop.signal.removeEventListener('abort', stop);
    }
  }

  stats() {
    return this.#engine.stats();
  }

  async stop(): Promise<void> {
    this.#onStop();
    this.#stop.abort();
  }
}

function stopped(plugin: string): NoaError {
  return new NoaError('UNAVAILABLE', `The plugin ${plugin} stops; try again later.`);
}

function refused(words: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', words);
}
