/**
 * The module of a native plugin, in its own process, and the engine that runs its handlers: a call does one
 * capability call at a time, and the global `fetch` goes through the door.
 */
import { registerHooks } from 'node:module';
import { withFetch } from '@noa/sdk/host';
import type { LoadRequest, RuntimeStats } from '../../kernel/loader.ts';
import { asReported, HandlerEngine, type Handlers, handlersOf } from '../handlers/engine.ts';
import type { PluginLog } from '../handlers/log.ts';

const SDK = '@noa/sdk';
/** Of the module's address, which its stacks show. */
const SCHEME = 'noa-plugin:';
const USAGE_MS = 1000;

const isOwnFrame = (line: string): boolean => line.includes(SCHEME);

/**
 * Evaluates the module from the bytes that were checked: no file is read again. It may import what Node
 * has built in and `@noa/sdk`, which is the host's own. Rejects with PLUGIN_TRAP in the module's words.
 */
export async function importHandlers(request: LoadRequest): Promise<Handlers> {
  const source = Buffer.from(request.wasm).toString('utf8');
  const address = `${SCHEME}${request.plugin}.mjs`;
  const sdk = import.meta.resolve(SDK);
  const format = 'module';
  registerHooks({
    resolve(specifier, context, next) {
      if (specifier === address) return { url: address, format, shortCircuit: true };
      return specifier === SDK ? { url: sdk, shortCircuit: true } : next(specifier, context);
    },
    load: (url, context, next) =>
      url === address ? { format, source, shortCircuit: true } : next(url, context),
  });
  try {
    const module: unknown = await import(address);
    return handlersOf(module, Object.keys(request.manifest.exports));
  } catch (error) {
    throw asReported(error, isOwnFrame);
  }
}

export function createNativeEngine(
  { config, limits }: LoadRequest,
  handlers: Handlers,
  log: PluginLog,
  maxRequestBytes: number,
): HandlerEngine {
  return new HandlerEngine({
    config,
    limits,
    handlers,
    log,
    isSequential: true,
    maxRequestBytes,
    around: ({ http }, run) => withFetch(http, run),
    isOwnFrame,
    stats: measured(),
  });
}

/** The whole process's memory, measured now and then. */
function measured(): () => RuntimeStats {
  let stats: RuntimeStats = { instances: 1, memoryBytes: 0 };
  let at = -Infinity;
  return () => {
    const now = performance.now();
    if (now - at >= USAGE_MS) {
      at = now;
      stats = { instances: 1, memoryBytes: process.memoryUsage.rss() };
    }
    return stats;
  };
}
