/**
 * What processes that have ended had counted, to be added to what those that run count now. Invariant: a
 * counter that goes on in another process never goes down; what is measured rather than counted ends
 * with its process.
 */
import type { MetricSnapshot } from './metrics.ts';

type Metric = MetricSnapshot[number];
type Value = Metric['values'][number];

interface Past {
  readonly metric: Metric;
  /** By the sample's name and labels. */
  readonly values: Map<string, Value>;
}

export class PastCounters {
  readonly #metrics = new Map<string, Past>();

  /** Adds the last of a process. */
  add(snapshot: MetricSnapshot): void {
    for (const metric of snapshot) {
      if (!COUNTING.has(String(metric.type))) continue;
      const past = this.#metrics.get(metric.name) ?? { metric, values: new Map<string, Value>() };
      this.#metrics.set(metric.name, past);
      for (const value of metric.values) {
        const key = keyOf(value);
        const before = past.values.get(key)?.value ?? 0;
        past.values.set(key, { ...value, value: before + value.value });
      }
    }
  }

  /** Drops the series of a removed plugin. */
  forget(plugin: string): void {
    for (const { values } of this.#metrics.values()) {
      for (const [key, { labels }] of values) {
        if (labels['plugin'] === plugin) values.delete(key);
      }
    }
  }

  snapshot(): MetricSnapshot {
    return Array.from(this.#metrics.values(), ({ metric, values }) => ({
      ...metric,
      values: [...values.values()],
    }));
  }
}

const COUNTING: ReadonlySet<string> = new Set(['counter', 'histogram']);

/** The samples of a histogram have names of their own. */
function keyOf(value: Value & { readonly metricName?: string }): string {
  const labels = Object.entries(value.labels).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([value.metricName, labels]);
}
