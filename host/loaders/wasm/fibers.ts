/**
 * The stacks on which guests run that may call the host (JS Promise Integration). A fixed number of
 * fibers is made on demand and kept: see fiber.wat for why a stack is not made for each call.
 */

type Entry = WebAssembly.ExportedFunction;

export interface FiberRun {
  /** The entry returned; called while its stack is still current, so it must not throw. */
  done(result: number): void;
  /** The entry trapped or threw; the fiber has been replaced. */
  failed(error: unknown): void;
}

interface Fiber {
  wake: () => void;
  run: FiberRun | undefined;
}

export class Fibers {
  readonly #table: WebAssembly.Table;
  readonly #main: (slot: number) => Promise<unknown>;
  readonly #fibers: Fiber[] = [];
  readonly #free: number[] = [];
  readonly #max: number;

  constructor(module: WebAssembly.Module, max: number) {
    this.#max = max;
    this.#table = new WebAssembly.Table({ element: 'anyfunc', initial: max });
    const { exports } = new WebAssembly.Instance(module, {
      host: {
        table: this.#table,
        next: new WebAssembly.Suspending(
          (slot: number) => new Promise<void>((resolve) => this.#wait(slot, resolve)),
        ),
        done: (slot: number, result: number) => this.#done(slot, result),
      },
    });
    this.#main = WebAssembly.promising(exports['fiber'] as Entry);
  }

  /** Stacks on which no guest runs. */
  get free(): number {
    return this.#free.length + this.#max - this.#fibers.length;
  }

  /** Runs the entry on a stack, beginning in a later microtask. Only when one is `free`. */
  run(entry: Entry, run: FiberRun): void {
    if (this.#free.length === 0) this.#start(this.#fibers.length);
    const slot = this.#free.pop();
    const fiber = slot === undefined ? undefined : this.#fibers[slot];
    if (slot === undefined || fiber === undefined) throw new Error('no fiber is free');
    fiber.run = run;
    this.#table.set(slot, entry);
    fiber.wake();
  }

  #start(slot: number): void {
    const fiber: Fiber = { wake: () => undefined, run: undefined };
    this.#fibers[slot] = fiber;
    this.#main(slot).catch((error: unknown) => {
      const { run } = fiber;
      this.#start(slot);
      run?.failed(error);
    });
  }

  #wait(slot: number, wake: () => void): void {
    const fiber = this.#fibers[slot];
    if (fiber === undefined) return;
    fiber.wake = wake;
    this.#free.push(slot);
  }

  #done(slot: number, result: number): void {
    const fiber = this.#fibers[slot];
    const run = fiber?.run;
    // A fiber that waits must not keep the last guest's memory alive.
    if (fiber !== undefined) fiber.run = undefined;
    this.#table.set(slot, null);
    run?.done(result);
  }
}
