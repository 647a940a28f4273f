/**
 * How a request to an upstream fails. Invariant: callers are told the route and never an address, a name
 * or a word of the upstream's own.
 */
import { NoaError } from '@noa/sdk/host';

/** Before the answer began: no connection, or one that ended or held no HTTP. */
export type Failure = 'connect' | 'reset' | 'timeout';

/** UNAVAILABLE that HTTP calls 502: the upstream was there, and what came from it was no answer. */
export class BadGatewayError extends NoaError {
  constructor(route: string) {
    super('UNAVAILABLE', `route ${route}: the server behind it broke off before it had answered`);
  }
}

export function failureOf(route: string, failure: Failure): NoaError {
  switch (failure) {
    case 'connect': {
      const text = `route ${route}: the server behind it takes no connection`;
      return new NoaError('UNAVAILABLE', text, { retryAfterMs: 1000 });
    }
    case 'reset':
      return new BadGatewayError(route);
    case 'timeout': {
      const text = `route ${route}: the server behind it did not answer in time`;
      return new NoaError('DEADLINE_EXCEEDED', text);
    }
  }
}

/** No upstream may be tried: all pause after failures, or have as many requests as they may. */
export function noneLeft(route: string, retryAfterMs: number): NoaError {
  const text = `route ${route}: none of the servers behind it can be used now`;
  return new NoaError('UNAVAILABLE', text, { retryAfterMs });
}

export function clientLeft(): NoaError {
  return new NoaError('CANCELLED', 'the caller left before it was answered');
}
