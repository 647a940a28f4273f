/** One load of one plugin, as the host's thread sees it. */
import type { LoadRequest, RuntimeStats } from '../../kernel/loader.ts';
import type { Job } from './job.ts';
import type { PluginUnit } from './protocol.ts';
import type { Thread } from './thread.ts';

export class Plugin {
  readonly id: number;
  readonly name: string;
  readonly spec: PluginUnit;
  readonly log: LoadRequest['log'];
  readonly jobs = new Set<Job>();
  readonly usage = new Map<Thread, RuntimeStats>();
  /** Set when it is being unloaded: resolves when its last job has ended. */
  #drained: (() => void) | undefined;

  constructor(id: number, name: string, spec: PluginUnit, log: LoadRequest['log']) {
    this.id = id;
    this.name = name;
    this.spec = spec;
    this.log = log;
  }

  stats(): RuntimeStats {
    let instances = 0;
    let memoryBytes = 0;
    for (const usage of this.usage.values()) {
      instances += usage.instances;
      memoryBytes += usage.memoryBytes;
    }
    return { instances, memoryBytes };
  }

  ended(job: Job): void {
    this.jobs.delete(job);
    if (this.jobs.size === 0) this.#drained?.();
  }

  drained(): Promise<void> {
    if (this.jobs.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#drained = resolve;
    });
  }
}
