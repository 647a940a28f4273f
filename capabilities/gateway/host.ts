/** The driver of `gateway`, which is the host's to use: a plugin that calls it is told how hooks are made. */
import { type Driver, NoaError } from '@noa/sdk/host';

export function createGatewayDriver(): Driver {
  return {
    invoke: (operation) => {
      const text = `gateway.${operation}: is not called by plugins; name an export in contributes.hooks`;
      return Promise.reject(new NoaError('INVALID_ARGUMENT', text));
    },
    check: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}
