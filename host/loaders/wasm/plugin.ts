/** One load of one plugin, as the host's thread sees it. */
import type { Harm, LoadRequest, RuntimeStats } from '../../kernel/loader.ts';
import type { PluginUnit } from './protocol.ts';
import type { Thread } from './thread.ts';

export class Plugin {
  readonly id: number;
  readonly name: string;
  readonly spec: PluginUnit;
  readonly log: LoadRequest['log'];
  /** Told that its code has brought a worker down by its own fault. */
  readonly harmed: (what: Harm) => void;
  readonly usage = new Map<Thread, RuntimeStats>();
  #jobs = 0;
  /** Set when it is being unloaded: resolves when its last job has ended. */
  #drained: (() => void) | undefined;

  constructor(
    id: number,
    name: string,
    spec: PluginUnit,
    { log, harmed }: Pick<LoadRequest, 'log' | 'harmed'>,
  ) {
    this.id = id;
    this.name = name;
    this.spec = spec;
    this.log = log;
    this.harmed = harmed ?? (() => undefined);
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

  /** Of each job once, before it `ended`. */
  began(): void {
    this.#jobs += 1;
  }

  ended(): void {
    this.#jobs -= 1;
    if (this.#jobs === 0) this.#drained?.();
  }

  drained(): Promise<void> {
    if (this.#jobs === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#drained = resolve;
    });
  }
}
