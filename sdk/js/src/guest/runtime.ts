/**
 * Runs the handlers of one definition for the engine: one call at a time, from the parsed input to the
 * output or the error on the wire (sdk/abi.md). A call has ended when its handler has settled and no
 * job is pending; nothing that it started outlives it.
 */
import { context } from './context.ts';
import * as engine from './engine.ts';
import { describe, toBody } from './describe.ts';
import * as timers from './timers.ts';

type Handler = (input: unknown, context: unknown) => unknown;

type Outcome =
  | { state: 'pending' }
  | { state: 'done'; value: unknown }
  | { state: 'failed'; error: unknown };

/** Binds what `src/index.ts` exports as default; the build reads the handlers' names afterwards. */
export function serve(definition: unknown): void {
  const handlers = handlersOf(definition);
  const names = Object.keys(handlers);
  const rejections = new Map<unknown, unknown>();
  let outcome: Outcome = { state: 'pending' };
  let current = '';

  const run = (index: number, input: unknown): void => {
    current = names[index] ?? '';
    outcome = { state: 'pending' };
    timers.open();
    start(handlers, current, input).then(
      (value) => {
        outcome = { state: 'done', value };
      },
      (error: unknown) => {
        outcome = { state: 'failed', error };
      },
    );
  };

  const step = (): number => {
    if (outcome.state === 'pending' && timers.fire()) return -1;
    const status = answer(current, outcome);
    for (const reason of rejections.values()) {
      engine.log('error', `unhandled rejection in '${current}': ${describe(reason)}`);
    }
    rejections.clear();
    timers.close();
    outcome = { state: 'pending' };
    return status;
  };

  const unhandled = (promise: unknown, reason: unknown, handledLater: number): void => {
    if (handledLater) rejections.delete(promise);
    else rejections.set(promise ?? {}, reason);
  };

  engine.bind(run, step, unhandled);
  Reflect.set(globalThis, '__noa_handlers', JSON.stringify(names));
}

async function start(
  handlers: Record<string, Handler>,
  name: string,
  input: unknown,
): Promise<unknown> {
  return handlers[name]?.(input, context);
}

function answer(name: string, outcome: Outcome): number {
  if (outcome.state === 'done') {
    try {
      engine.output(JSON.stringify(outcome.value) ?? 'null');
      return 0;
    } catch (error) {
      const message = `what '${name}' answered is not JSON: ${describe(error)}`;
      engine.fail(JSON.stringify({ code: 'PLUGIN_OUTPUT_INVALID', message }));
      return 1;
    }
  }
  const body =
    outcome.state === 'failed'
      ? toBody(outcome.error)
      : { code: 'PLUGIN_TRAP', message: unsettled(name) };
  engine.fail(JSON.stringify(body));
  return 1;
}

function unsettled(name: string): string {
  const wait = timers.nearest();
  return wait === undefined
    ? `'${name}' never settled: it awaits a promise that nothing resolves any more`
    : `'${name}' awaits a timer that is due in ${Math.ceil(wait)} ms, and a plugin cannot sleep: ` +
        'answer, and let the caller come again';
}

function handlersOf(definition: unknown): Record<string, Handler> {
  const handlers: unknown = (definition as { handlers?: unknown } | undefined)?.handlers;
  if (typeof handlers !== 'object' || handlers === null) {
    throw new Error(
      'the default export is not a plugin: write `export default definePlugin({ … })`',
    );
  }
  for (const [name, handler] of Object.entries(handlers)) {
    if (typeof handler !== 'function') throw new Error(`the handler '${name}' is not a function`);
  }
  return handlers as Record<string, Handler>;
}
