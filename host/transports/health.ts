/**
 * Liveness and readiness, the only routes that ask for no credential. Readiness concerns what the host
 * cannot serve without: its required dependencies. A plugin that failed shows as `degraded` and does not
 * take the host, with all its other plugins, out of a load balancer; one that waits for a grant or is
 * disabled is no failure at all. Invariant: an answer names no plugin, path, address or secret.
 */
import type { FastifyInstance } from 'fastify';
import type { PluginView } from '../kernel/views.ts';
import { object, oneOf, text, time } from './answer-schema.ts';
import { resource } from './resource.ts';

const CHECK_MS = 2000;
/** Checks reach engines, and anybody may ask: more often than this they are not run. */
const CACHE_MS = 500;

export interface Check {
  readonly status: 'ok' | 'degraded' | 'failed';
  readonly latencyMs: number;
  readonly error?: string;
}

interface Alive {
  readonly status: 'ok';
  readonly timestamp: string;
  readonly version: string;
}

interface Ready {
  readonly status: 'ready' | 'unready';
  readonly checks: Checks;
}

const ALIVE = object<Alive>(
  { status: { type: 'string', const: 'ok' }, timestamp: time(), version: text() },
  { title: 'Health' },
);

const CHECK = object<Check>(
  {
    status: oneOf(['ok', 'degraded', 'failed']),
    latencyMs: { type: 'number', minimum: 0 },
    error: text(),
  },
  { optional: ['error'] },
);

const READINESS = object<Ready>(
  {
    status: oneOf(['ready', 'unready']),
    checks: { type: 'object', additionalProperties: CHECK, description: 'By dependency.' },
  },
  { title: 'Readiness' },
);

export interface HealthOptions {
  readonly version: string;
  /** The required dependencies; each resolves when it answers now. */
  readonly checks: { readonly [name: string]: () => Promise<void> };
  readonly plugins: () => readonly Pick<PluginView, 'state' | 'enabled'>[];
  readonly draining: () => boolean;
  /** Told why a check failed, once for each time that it begins to fail. */
  readonly onError: (message: string, error: unknown) => void;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

export function registerHealth(scope: FastifyInstance, options: HealthOptions): void {
  const { version, now } = options;
  const readiness = new Readiness(options);
  for (const url of ['/health', '/healthz']) {
    const run = (): Alive => ({ status: 'ok', timestamp: new Date(now()).toISOString(), version });
    resource(scope, url, {
      GET: {
        summary: 'Tell that the process lives',
        tag: 'Health',
        open: true,
        answers: { 200: ALIVE },
        run,
      },
    });
  }
  for (const url of ['/ready', '/readyz']) {
    resource(scope, url, {
      GET: {
        summary: 'Tell whether the host can serve',
        description: '200 when every required dependency answers now, else 503.',
        tag: 'Health',
        open: true,
        answers: { 200: READINESS, 503: READINESS },
        run: async (_request, reply) => {
          const checks = await readiness.checks();
          const failed = Object.values(checks).some(({ status }) => status === 'failed');
          const ready = !failed && !options.draining();
          return reply
            .code(ready ? 200 : 503)
            .send({ status: ready ? 'ready' : 'unready', checks });
        },
      },
    });
  }
}

type Checks = { [name: string]: Check };

class Readiness {
  readonly #options: HealthOptions;
  readonly #failing = new Set<string>();
  #running: Promise<Checks> | undefined;
  #last: { readonly checks: Checks; readonly at: number } | undefined;

  constructor(options: HealthOptions) {
    this.#options = options;
  }

  checks(): Checks | Promise<Checks> {
    if (this.#last !== undefined && performance.now() - this.#last.at < CACHE_MS) {
      return this.#last.checks;
    }
    this.#running ??= this.#run().finally(() => (this.#running = undefined));
    return this.#running;
  }

  async #run(): Promise<Checks> {
    const names = Object.keys(this.#options.checks);
    const entries = await Promise.all(
      names.map(async (name) => [name, await this.#check(name)] as const),
    );
    const checks = { ...Object.fromEntries(entries), plugins: this.#plugins() };
    this.#last = { checks, at: performance.now() };
    return checks;
  }

  async #check(name: string): Promise<Check> {
    const started = performance.now();
    const latencyMs = () => Math.round((performance.now() - started) * 10) / 10;
    const late = new Error(`did not answer within ${CHECK_MS} ms`);
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(late), CHECK_MS);
    });
    try {
      await Promise.race([this.#options.checks[name]?.(), deadline]);
      this.#failing.delete(name);
      return { status: 'ok', latencyMs: latencyMs() };
    } catch (error) {
      if (!this.#failing.has(name)) this.#options.onError(`${name} does not answer`, error);
      this.#failing.add(name);
      // Anyone may read this, and a driver's own words may hold an address or a path.
      const text = error === late ? late.message : 'is not available; the host log tells why';
      return { status: 'failed', latencyMs: latencyMs(), error: text };
    } finally {
      clearTimeout(timer);
    }
  }

  #plugins(): Check {
    const enabled = this.#options.plugins().filter((plugin) => plugin.enabled);
    const failed = enabled.filter(({ state }) => state === 'failed' || state === 'quarantined');
    if (failed.length === 0) return { status: 'ok', latencyMs: 0 };
    const error = `${failed.length} of ${enabled.length} enabled plugins failed: noa plugin list`;
    return { status: 'degraded', latencyMs: 0, error };
  }
}
