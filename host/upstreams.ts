/** The servers behind `gateway.routes`, opened for a process that serves. */
import { bare, Gatekeeper } from '../capabilities/http/address.ts';
import { readAuthorities } from '../capabilities/http/authorities.ts';
import type { Config } from './config.ts';
import { isOwnPath } from './config/routes.ts';
import { UpstreamRoutes } from './gateway/upstream/routes.ts';

type Log = { readonly warn: (about: object, message: string) => void };

/**
 * The operator has named each host, so it may be at a private address; what its name leads to is judged
 * all the same, since a name may be somebody else's: link-local and metadata addresses are never connected to.
 */
export function openUpstreams({ routes, ca_path }: Config['gateway'], log: Log): UpstreamRoutes {
  return new UpstreamRoutes(
    {
      now: () => performance.now(),
      isOwnPath,
      lookup: (url) => new Gatekeeper([bare(url.hostname)]).lookupFor(url),
      authorities: ca_path === undefined ? [] : readAuthorities(ca_path, 'gateway.ca_path'),
      onBreaker: (change) => {
        const { route, state, because } = change;
        const text = state === 'open' ? 'is given a pause' : 'is used again';
        log.warn(change, `a server behind route ${route} ${text}: ${because}`);
      },
    },
    routes,
  );
}
