/** Driver of `plugin` for plugins in this host: hands the call to the host's dispatcher. */
import type { Driver, DriverCall, Json } from '@noa/sdk/host';
import type { PluginCall } from './capability.ts';

/** Runs the call in the name of `call.plugin`; rejects with NoaError as any call of an export does. */
export type Dispatch = (target: PluginCall, call: DriverCall) => Promise<Json>;

export function createLocalDriver(dispatch: Dispatch): Driver {
  return {
    async invoke(_operation, input, call) {
      // The broker has checked the input against the operation's schema.
      return { output: await dispatch(input as PluginCall, call) };
    },
    check: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}
