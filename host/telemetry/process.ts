/** What a process of the host itself uses: memory, processor time, the event loop, garbage collection. */
import {
  constants,
  monitorEventLoopDelay,
  performance,
  type PerformanceEntry,
  PerformanceObserver,
} from 'node:perf_hooks';
import { type Aggregator, Counter, Gauge, type Registry } from 'prom-client';

/** An entry of type `gc`. */
interface GcEntry extends PerformanceEntry {
  readonly detail: { readonly kind: number };
}

const GC_KINDS: Readonly<Record<number, string>> = {
  [constants.NODE_PERFORMANCE_GC_MINOR]: 'minor',
  [constants.NODE_PERFORMANCE_GC_MAJOR]: 'major',
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: 'incremental',
  [constants.NODE_PERFORMANCE_GC_WEAKCB]: 'weak',
};

/** Begins to measure; answers the function that ends it. */
export function measureProcess(registry: Registry): () => void {
  const registers = [registry];
  const gauge = (name: string, help: string, read: () => number, aggregator: Aggregator = 'sum') =>
    new Gauge({
      name,
      help,
      registers,
      aggregator,
      collect() {
        this.set(read());
      },
    });
  gauge('process_resident_memory_bytes', 'Resident memory of the host process.', () =>
    process.memoryUsage.rss(),
  );
  gauge(
    'noa_heap_used_bytes',
    'JavaScript heap in use, without that of the sandbox.',
    () => process.memoryUsage().heapUsed,
  );
  gauge(
    'process_start_time_seconds',
    'Start of the host process, in seconds since the epoch.',
    () => performance.timeOrigin / 1000,
    'min',
  );
  new Counter({
    name: 'process_cpu_seconds_total',
    help: 'User and system time that the host process has used.',
    registers,
    collect() {
      const { user, system } = process.cpuUsage();
      this.reset();
      this.inc((user + system) / 1e6);
    },
  });
  const delay = monitorEventLoopDelay({ resolution: 20 });
  delay.enable();
  gauge(
    'noa_event_loop_delay_seconds',
    '99th percentile of the event loop delay since the last scrape.',
    () => {
      const seconds = delay.percentile(99) / 1e9;
      delay.reset();
      return seconds;
    },
    'max',
  );
  const collected = new Counter({
    name: 'noa_gc_seconds_total',
    help: "Time of the host's own garbage collection, by its kind.",
    labelNames: ['kind'],
    registers,
  });
  const observer = new PerformanceObserver((list) => {
    for (const { detail, duration } of list.getEntries() as GcEntry[]) {
      collected.inc({ kind: GC_KINDS[detail.kind] ?? 'other' }, duration / 1000);
    }
  });
  observer.observe({ entryTypes: ['gc'] });
  return () => {
    delay.disable();
    observer.disconnect();
  };
}
