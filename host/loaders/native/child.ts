/**
 * Entry of the process of one native plugin: its module, its configuration and its calls, and nothing else
 * of the host. What the module prints goes to its log.
 */
import { format, inspect } from 'node:util';
import type { LoadRequest } from '../../kernel/loader.ts';
import { requestBytes } from '../process/contract.ts';
import { serve } from '../process/server.ts';
import type { HandlerEngine } from '../handlers/engine.ts';
import { createPluginLog, type PluginLog } from '../handlers/log.ts';
import { createNativeEngine, importHandlers } from './module.ts';

serve((options) => ({
  async load(request: LoadRequest): Promise<HandlerEngine> {
    const log = createPluginLog((level, line) => request.log(level, line));
    takeConsole(log);
    process.on('unhandledRejection', (reason) =>
      log.error(`unhandled rejection: ${inspect(reason)}`),
    );
    const handlers = await importHandlers(request);
    return createNativeEngine(request, handlers, log, requestBytes(options));
  },
}));

/** Standard output leads nowhere. */
function takeConsole(log: PluginLog): void {
  const { debug, info, warn, error } = log;
  const lines = { debug, info, warn, error, log: info, trace: debug };
  for (const [name, write] of Object.entries(lines)) {
    Reflect.set(console, name, (...values: unknown[]) => write(format(...values)));
  }
}
