/**
 * A counter and a duration histogram over one set of labels, for paths where prom-client's own
 * observation is too dear: a record is one map look-up and three additions, and the registry reads the
 * sums when it is scraped. Invariant: at most MAX_SERIES label sets; what comes later is counted under
 * the label values `other`.
 */
import { Counter, Histogram, type Registry } from 'prom-client';

const MAX_SERIES = 2000;
/** Upper bounds in seconds. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

interface Series {
  readonly labels: Readonly<Record<string, string>>;
  /** Observations by bucket, the last one for all above. */
  readonly counts: Float64Array;
  total: number;
  seconds: number;
}

export interface TimingsOptions {
  readonly registry: Registry;
  readonly labels: readonly string[];
  readonly counter: { readonly name: string; readonly help: string };
  readonly histogram: { readonly name: string; readonly help: string };
}

export class Timings {
  readonly #labels: readonly string[];
  readonly #series = new Map<string, Series>();

  constructor({ registry, labels, counter, histogram }: TimingsOptions) {
    this.#labels = labels;
    const series = () => this.#series.values();
    const common = { labelNames: labels, registers: [registry] };
    new Counter({
      ...counter,
      ...common,
      collect() {
        this.reset();
        for (const each of series()) this.inc(each.labels, each.total);
      },
    });
    new StoredHistogram(histogram, common, series);
  }

  /** `values` in the order of the labels. */
  record(values: readonly string[], seconds: number): void {
    const series = this.#series.get(values.join('\n')) ?? this.#add(values);
    let bucket = 0;
    while (bucket < BUCKETS.length && seconds > (BUCKETS[bucket] ?? 0)) bucket += 1;
    series.counts[bucket] = (series.counts[bucket] ?? 0) + 1;
    series.total += 1;
    series.seconds += seconds;
  }

  /** Drops all series whose label has this value. */
  forget(label: string, value: string): void {
    for (const [key, { labels }] of this.#series) {
      if (labels[label] === value) this.#series.delete(key);
    }
  }

  #add(wanted: readonly string[]): Series {
    const values = this.#series.size < MAX_SERIES ? wanted : this.#labels.map(() => 'other');
    const key = values.join('\n');
    const known = this.#series.get(key);
    if (known !== undefined) return known;
    const labels = Object.fromEntries(this.#labels.map((name, i) => [name, values[i] ?? '']));
    const counts = new Float64Array(BUCKETS.length + 1);
    const series: Series = { labels, counts, total: 0, seconds: 0 };
    this.#series.set(key, series);
    return series;
  }
}

/** A histogram whose samples are kept elsewhere; the registry asks for them by `getForPromString`. */
class StoredHistogram extends Histogram {
  readonly #about: TimingsOptions['histogram'];
  readonly #series: () => Iterable<Series>;

  constructor(
    about: TimingsOptions['histogram'],
    common: { labelNames: readonly string[]; registers: Registry[] },
    series: () => Iterable<Series>,
  ) {
    super({ ...about, ...common, buckets: BUCKETS });
    this.#about = about;
    this.#series = series;
  }

  getForPromString(): object {
    const values = [...this.#samples()];
    return { ...this.#about, type: 'histogram', aggregator: 'sum', values };
  }

  *#samples() {
    const { name } = this.#about;
    const sharedLabels = {}; // the library's `get` wants them
    for (const { labels, counts, total, seconds } of this.#series()) {
      let upTo = 0;
      for (const [i, le] of [...BUCKETS, '+Inf'].entries()) {
        upTo += counts[i] ?? 0;
        yield {
          metricName: `${name}_bucket`,
          labels: { ...labels, le },
          sharedLabels,
          value: upTo,
        };
      }
      yield { metricName: `${name}_sum`, labels, sharedLabels, value: seconds };
      yield { metricName: `${name}_count`, labels, sharedLabels, value: total };
    }
  }
}
