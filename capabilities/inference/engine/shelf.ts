/**
 * Which models are loaded where, and that they fit into memory. Invariants: what is loaded and what is being
 * loaded stay within the bound; what was unused longest goes when there is no room; a model that cannot be loaded
 * is tried again later and later, and says why.
 */
import { NoaError } from '@noa/sdk/host';
import { isLlama } from '../models/llama.ts';
import type { ModelRegistry } from '../models/registry.ts';
import { type Device, type ModelFiles, OVERHEAD_BYTES } from '../models/runner.ts';
import type { Key } from './protocol.ts';
import { type Station, WorkerLostError } from './station.ts';

const MAX_BACKOFF_MS = 60_000;

export interface ShelfOptions {
  readonly registry: ModelRegistry;
  readonly device: 'auto' | Device;
  /** What loaded models may take together, in all workers. */
  readonly memoryBytes: number;
  readonly stations: () => Iterable<Station>;
  readonly onNotice: (message: string) => void;
  readonly now: () => number;
}

interface Failure {
  readonly reason: string;
  readonly until: number;
  readonly times: number;
}

export class Shelf {
  readonly #options: ShelfOptions;
  readonly #files = new Map<Key, Promise<ModelFiles>>();
  readonly #failures = new Map<Key, Failure>();
  readonly #usedAt = new Map<Key, number>();
  /** Of models that were loaded once. */
  readonly #sizes = new Map<Key, number>();
  /** Bytes of what is being loaded now. */
  #reserved = 0;
  /** What `auto` has turned out to be, for llama.cpp (true) and for ONNX Runtime. */
  readonly #devices = new Map<boolean, Device>();

  constructor(options: ShelfOptions) {
    this.#options = options;
  }

  /** Bytes of the models in all workers. */
  get memoryBytes(): number {
    let sum = 0;
    for (const { loaded } of this.#options.stations()) {
      for (const bytes of loaded.values()) sum += bytes;
    }
    return sum;
  }

  use(key: Key): void {
    this.#usedAt.set(key, this.#options.now());
  }

  /** Why it could not be loaded the last time. */
  failureOf(key: Key): Failure | undefined {
    return this.#failures.get(key);
  }

  /** Undefined for a model that was not loaded yet. */
  bytesOf(key: Key): number | undefined {
    return this.#sizes.get(key);
  }

  deviceOf(model: Pick<ModelFiles, 'graph'>): Device | undefined {
    return this.#devices.get(isLlama(model));
  }

  /** Has a worker load a model, and others go when there is no room for it. */
  async prepare(station: Station, key: Key): Promise<void> {
    this.use(key);
    if (station.loaded.has(key)) return;
    try {
      const files = await this.#filesOf(key);
      const needed = this.#makeRoom(key, files);
      this.#reserved += needed;
      try {
        await this.#load(station, key, files);
      } finally {
        this.#reserved -= needed;
      }
      this.#failures.delete(key);
      this.#sizes.set(key, station.loaded.get(key) ?? 0);
    } catch (error) {
      const isOfTheModel = error instanceof NoaError && !(error instanceof WorkerLostError);
      if (!isOfTheModel || error.code === 'RESOURCE_EXHAUSTED') throw error;
      const times = (this.#failures.get(key)?.times ?? 0) + 1;
      const until = this.#options.now() + Math.min(MAX_BACKOFF_MS, 1000 * 2 ** (times - 1));
      this.#failures.set(key, { reason: error.message, until, times });
      this.#options.onNotice(`model ${key} cannot be loaded: ${error.message}`);
      throw error;
    }
  }

  async #load(station: Station, key: Key, files: ModelFiles): Promise<void> {
    const { device } = this.#options;
    const by = isLlama(files);
    const wanted = device === 'auto' ? (this.#devices.get(by) ?? 'cuda') : device;
    try {
      await station.load(key, files, wanted);
      this.#devices.set(by, wanted);
    } catch (error) {
      if (device !== 'auto' || wanted === 'cpu' || error instanceof WorkerLostError) throw error;
      await station.load(key, files, 'cpu');
      this.#devices.set(by, 'cpu');
    }
  }

  #filesOf(key: Key): Promise<ModelFiles> {
    let files = this.#files.get(key);
    if (files === undefined) {
      const at = key.lastIndexOf('@');
      const { registry } = this.#options;
      const entry = registry.find(key.slice(0, at), key.slice(at + 1));
      if (entry === undefined) throw new NoaError('NOT_FOUND', `there is no model ${key}`);
      files = registry.files(entry).finally(() => this.#files.delete(key));
      this.#files.set(key, files);
    }
    return files;
  }

  /** Answers the bytes that the model is taken to need. */
  #makeRoom(key: Key, { files }: ModelFiles): number {
    const { memoryBytes: most } = this.#options;
    const needed =
      this.#sizes.get(key) ?? files.reduce((sum, { bytes }) => sum + bytes, OVERHEAD_BYTES);
    if (needed > most) {
      const text = `model ${key} takes ${mib(needed)}, and inference.memory_mib is ${mib(most)}`;
      throw new NoaError('RESOURCE_EXHAUSTED', text);
    }
    const oldestFirst = [...this.#options.stations()]
      .flatMap((station) => [...station.loaded.keys()].map((loaded) => ({ station, loaded })))
      .filter(({ station, loaded }) => loaded !== key && !station.uses(loaded))
      .toSorted((a, b) => (this.#usedAt.get(a.loaded) ?? 0) - (this.#usedAt.get(b.loaded) ?? 0));
    for (const { station, loaded } of oldestFirst) {
      if (this.#taken + needed <= most) return needed;
      station.unload(loaded);
    }
    if (this.#taken + needed <= most) return needed;
    const text = `there is no room for model ${key} while others are at work (inference.memory_mib is ${mib(most)})`;
    throw new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 1000 });
  }

  get #taken(): number {
    return this.memoryBytes + this.#reserved;
  }

  /** Whether another copy of a model that is loaded somewhere can be had without waiting. */
  hasRoom(key: Key): boolean {
    const needed = this.#sizes.get(key) ?? 0;
    let idle = 0;
    for (const station of this.#options.stations()) {
      for (const [loaded, bytes] of station.loaded) {
        if (loaded !== key && !station.uses(loaded)) idle += bytes;
      }
    }
    return this.#taken - idle + needed <= this.#options.memoryBytes;
  }

  unloadUnused(): void {
    const now = this.#options.now();
    for (const station of this.#options.stations()) {
      for (const key of Array.from(station.loaded.keys())) {
        const at = key.lastIndexOf('@');
        const entry = this.#options.registry.find(key.slice(0, at), key.slice(at + 1));
        const keepMs = entry?.manifest?.keepAliveMs ?? Infinity;
        const isUnused = now - (this.#usedAt.get(key) ?? 0) > keepMs;
        if (isUnused && !station.uses(key)) station.unload(key);
      }
    }
  }
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / (1 << 20))} MiB`;
}
