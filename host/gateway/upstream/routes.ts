/**
 * The routes to other servers as the configuration has them now. Invariant: a change of the configuration
 * takes no request down: one that runs keeps the route that it began with, a server that stays keeps its
 * connections and its breaker, and one that goes finishes what it has.
 */
import type { LiveRoute } from './forward.ts';
import type { RouteSettings } from './settings.ts';
import { plainPath } from './target.ts';
import { Upstream, type UpstreamPowers, type UpstreamStats } from './upstream.ts';

export interface RoutesPowers extends UpstreamPowers {
  /** Whether a path is one that this host answers itself, whatever is configured. */
  readonly isOwnPath: (path: string) => boolean;
}

export class UpstreamRoutes {
  readonly #powers: RoutesPowers;
  /** By their prefix, which has no slash at its end. */
  #routes: ReadonlyMap<string, LiveRoute> = new Map();
  #upstreams: ReadonlyMap<string, Upstream> = new Map();
  #closing: Promise<unknown> = Promise.resolve();

  constructor(powers: RoutesPowers, routes: readonly RouteSettings[] = []) {
    this.#powers = powers;
    this.configure(routes);
  }

  /** Follows these from now on. */
  configure(configs: readonly RouteSettings[] = []): void {
    const upstreams = new Map<string, Upstream>();
    const routes = configs.map((config): [string, LiveRoute] => {
      const behind = config.upstreams.map((server) => {
        const key = keyOf(config, server.url);
        const upstream = this.#upstreams.get(key) ?? new Upstream(config, server, this.#powers);
        upstream.weight = server.weight;
        upstreams.set(key, upstream);
        return upstream;
      });
      return [config.path === '/' ? '' : config.path, { config, upstreams: behind }];
    });
    const gone = [...this.#upstreams].filter(([key]) => !upstreams.has(key));
    this.#closing = Promise.all([this.#closing, ...gone.map(([, upstream]) => upstream.close())]);
    this.#routes = new Map(routes);
    this.#upstreams = upstreams;
  }

  /**
   * The route with the longest prefix of whole segments; none for paths of this host's own, nor for one
   * that a server would read as one of another route, which may ask for other rights.
   */
  match(path: string): LiveRoute | undefined {
    if (this.#routes.size === 0) return undefined;
    const route = this.#find(path);
    const plain = plainPath(path);
    return plain === path || this.#find(plain) === route ? route : undefined;
  }

  #find(path: string): LiveRoute | undefined {
    if (this.#powers.isOwnPath(path)) return undefined;
    for (let end = path.length; end >= 0; end = path.lastIndexOf('/', end - 1)) {
      const route = this.#routes.get(path.slice(0, end));
      if (route !== undefined) return route;
      if (end === 0) break;
    }
    return undefined;
  }

  *stats(): Generator<UpstreamStats> {
    for (const upstream of this.#upstreams.values()) yield upstream.stats();
  }

  /** Finishes what runs. */
  async close(): Promise<void> {
    this.configure([]);
    await this.#closing;
  }
}

/** The same text for a server that a change of the configuration leaves as it is. */
function keyOf(
  { name, timeout_ms, connect_timeout_ms, max_connections, breaker }: RouteSettings,
  url: string,
) {
  return JSON.stringify([name, url, timeout_ms, connect_timeout_ms, max_connections, breaker]);
}
