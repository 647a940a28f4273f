/** Driver of `plugin` for plugins in this host: hands the call to the host's dispatcher. */
import type { Driver, DriverCall, Json } from '@noa/sdk/host';
import type { PluginCall } from './capability.ts';

/** Runs the call in the name of `call.plugin`; rejects with NoaError as any call of an export does. */
export type Dispatch = (target: PluginCall, call: DriverCall) => Promise<Json>;

export function createLocalDriver(dispatch: Dispatch): Driver {
  return {
    async invoke(_operation, input, call) {
      return { output: await dispatch(readCall(input), call) };
    },
    check: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}

/** The broker has checked the input against the operation's schema; this only gives it its type. */
function readCall(input: Json): PluginCall {
  if (typeof input !== 'object' || input === null || Array.isArray(input))
    throw new TypeError('no call');
  const { plugin, export: name, input: value = null, budget } = input;
  if (typeof plugin !== 'string' || typeof name !== 'string') throw new TypeError('no call');
  return { plugin, export: name, input: value, ...(isBudget(budget) ? { budget } : {}) };
}

function isBudget(value: Json | undefined): value is { [field: string]: number } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
