/**
 * Which work of the host is traced. The decision falls where work enters the host, before anything is
 * made: what is not traced costs a comparison and a random number. Invariant: callers, whatever they send,
 * have no more traced than the operator allows.
 */
import type { Span, SpanKind } from '@noa/sdk/host';
import type { Otlp, OtlpOptions } from './otlp.ts';
import type { Caller } from './spans.ts';

export interface SamplingOptions {
  /** Part of the work that is traced, from 0 to 1. */
  readonly ratio: number;
  /** Whether a caller's own decision counts. */
  readonly parent: 'honour' | 'ignore';
  /** Traces a second that callers may ask for; of further ones the ratio is traced. */
  readonly maxPerSecond: number;
  /** Milliseconds. */
  readonly now: () => number;
  /** From 0 to below 1. */
  readonly random: () => number;
}

export class Sampling {
  readonly #options: SamplingOptions;
  /** What callers may still ask for. */
  #left: number;
  #at: number;

  constructor(options: SamplingOptions) {
    this.#options = options;
    this.#left = options.maxPerSecond;
    this.#at = options.now();
  }

  decide(caller: Pick<Caller, 'sampled'> | undefined): boolean {
    const { ratio, parent, random } = this.#options;
    if (caller !== undefined && parent === 'honour') {
      if (!caller.sampled) return false;
      if (this.#take()) return true;
    }
    return random() < ratio;
  }

  #take(): boolean {
    const { maxPerSecond, now } = this.#options;
    const at = now();
    const gained = (Math.max(0, at - this.#at) / 1000) * maxPerSecond;
    this.#left = Math.min(maxPerSecond, this.#left + gained);
    this.#at = at;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}

/** The keys of the configuration that are about traces. */
export interface TraceSettings {
  readonly otlp_endpoint: string | undefined;
  /** `name=value,name=value` */
  readonly otlp_headers: string | undefined;
  readonly service_name: string;
  readonly trace_ratio: number;
  readonly trace_parent: 'honour' | 'ignore';
  readonly trace_max_per_second: number;
}

export class Traces {
  readonly #sampling: Sampling;
  readonly #otlp: Otlp;

  private constructor(sampling: Sampling, otlp: Otlp) {
    this.#sampling = sampling;
    this.#otlp = otlp;
  }

  /** Without an endpoint nothing is traced, and nothing is loaded. */
  static async open(
    settings: TraceSettings,
    about: Pick<OtlpOptions, 'version' | 'instance' | 'observe' | 'log'>,
  ): Promise<Traces | undefined> {
    const { otlp_endpoint: endpoint, trace_ratio: ratio } = settings;
    if (endpoint === undefined) return undefined;
    const { openOtlp } = await import('./otlp.ts');
    const sampling = new Sampling({
      ratio,
      parent: settings.trace_parent,
      maxPerSecond: settings.trace_max_per_second,
      now: Date.now,
      random: Math.random,
    });
    const headers = readHeaders(settings.otlp_headers);
    const otlp = openOtlp({ ...about, endpoint, headers, serviceName: settings.service_name });
    about.log.info({ ratio }, `traces go to ${new URL(endpoint).host}`);
    return new Traces(sampling, otlp);
  }

  /** The first span of a piece of work in this host; undefined when it is not traced. */
  begin(name: string, kind: SpanKind, caller?: Caller): Span | undefined {
    return this.#sampling.decide(caller) ? this.#otlp.begin(name, kind, caller) : undefined;
  }

  /** Sends what waits, for at most two seconds. */
  close(): Promise<void> {
    return this.#otlp.close();
  }
}

function readHeaders(text = ''): Record<string, string> {
  const pairs = text.split(',').map((pair): [string, string] => {
    const at = pair.indexOf('=');
    return [pair.slice(0, at).trim(), pair.slice(at + 1).trim()];
  });
  return Object.fromEntries(pairs.filter(([name]) => name !== ''));
}
