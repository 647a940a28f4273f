/**
 * The models of this host, run by workers: which are loaded where, and that they fit into memory. Invariants:
 * a model is loaded when it is first asked for, by as many workers as are asked; what was unused longest goes
 * when there is no room; a model that cannot be loaded is tried again later and later, and says why.
 */
import { NoaError, stopped } from '@noa/sdk/host';
import type {
  Backend,
  BackendCall,
  ClassifyRequest,
  Embedded,
  EmbedRequest,
  GenerateItem,
  GenerateRequest,
  ModelView,
  RerankRequest,
  RunRequest,
  Tensor,
  TokenPlace,
  TokenUsage,
} from '../backend.ts';
import type { ModelEntry, ModelRegistry } from '../models/registry.ts';
import {
  type Device,
  type GeneratedPart,
  type ModelFiles,
  OVERHEAD_BYTES,
} from '../models/runner.ts';
import { Crew } from './crew.ts';
import { openProcess } from './lane.ts';
import { promptOf, readParameters } from './parameters.ts';
import type { Key, ScoresAnswer, Work } from './protocol.ts';
import { type Station, WorkerLostError } from './station.ts';

const LOOK_MS = 10_000;
const MAX_BACKOFF_MS = 60_000;
const PRESET_TOKENS = 512;

export interface EngineOptions {
  readonly registry: ModelRegistry;
  readonly workers: number;
  readonly maxBatch: number;
  /** Texts that may wait to be embedded. */
  readonly maxQueued: number;
  /** Longest time that one run of a model may take. */
  readonly limitMs: number;
  /** What loaded models may take together, in all workers. */
  readonly memoryBytes: number;
  readonly device: 'auto' | Device;
  /** Ids of models, or beginnings and `*`, that run in a process apart from the others. */
  readonly untrusted: readonly string[];
  readonly observeBatch: (texts: number) => void;
  readonly onNotice: (message: string) => void;
  readonly now: () => number;
}

interface Failure {
  readonly reason: string;
  readonly until: number;
  readonly times: number;
}

export class Engine implements Backend {
  readonly #options: EngineOptions;
  readonly #trusted: Crew;
  readonly #untrusted: Crew;
  readonly #files = new Map<Key, Promise<ModelFiles>>();
  readonly #failures = new Map<Key, Failure>();
  readonly #usedAt = new Map<Key, number>();
  /** Of models that were loaded once. */
  readonly #sizes = new Map<Key, number>();
  readonly #timer: NodeJS.Timeout;
  #scanned: Promise<void> | undefined;
  /** Bytes of what is being loaded now. */
  #reserved = 0;
  /** What `auto` has turned out to be. */
  #device: Device | undefined;

  constructor(options: EngineOptions) {
    this.#options = options;
    const { maxBatch, maxQueued, limitMs, observeBatch, now, onNotice } = options;
    const crew = {
      maxBatch,
      maxQueued,
      limitMs,
      observeBatch,
      now,
      prepare: (station: Station, key: Key) => this.#prepare(station, key),
      hasRoom: (key: Key) => this.#hasRoom(key),
      onLost: (reason: string) => onNotice(`a worker of inference ended: ${reason}`),
    };
    this.#trusted = new Crew({ ...crew, open: openProcess, workers: options.workers });
    this.#untrusted = new Crew({ ...crew, open: openProcess, workers: 1 });
    this.#timer = setInterval(() => this.#unloadUnused(), LOOK_MS).unref();
  }

  /** What waits for a worker. */
  get queued(): number {
    return this.#trusted.queued + this.#untrusted.queued;
  }

  /** Bytes of the models in all workers. */
  get memoryBytes(): number {
    let sum = 0;
    for (const { loaded } of this.#stations()) for (const bytes of loaded.values()) sum += bytes;
    return sum;
  }

  async models(): Promise<readonly ModelView[]> {
    await this.#scan();
    return this.#options.registry.list().map((entry) => this.#view(entry));
  }

  async find(model: string, version?: string): Promise<ModelView | undefined> {
    await this.#scan();
    const entry = this.#options.registry.find(model, version);
    return entry && this.#view(entry);
  }

  /** Looks at the folders of models again. */
  async rescan(): Promise<void> {
    this.#scanned = this.#options.registry.rescan();
    await this.#scanned;
  }

  async embed(
    { model, texts, truncate, dimensions }: EmbedRequest,
    call: BackendCall,
  ): Promise<Embedded> {
    const { key, entry } = await this.#usable(model);
    const whole = entry.manifest?.dimensions;
    if (dimensions !== undefined && dimensions !== whole) {
      const text = `dimensions: ${model} has ${whole ?? 'its own'} and cannot give ${dimensions}`;
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    return this.#crewOf(key).embed(key, texts, truncate, call);
  }

  async *generate(request: GenerateRequest, call: BackendCall): AsyncIterable<GenerateItem> {
    const { key, entry } = await this.#usable(request.model);
    const most = entry.manifest?.limits?.maxTokens ?? PRESET_TOKENS;
    const parameters = readParameters(request.parameters, most);
    const work: Work = { kind: 'generate', prompt: promptOf(request), parameters };
    const { station, release } = await this.#crewOf(key).place(key, call);
    const { signal } = call;
    const parts: GeneratedPart[] = [];
    let usage: TokenUsage | undefined;
    let failure: Error | undefined;
    let wake = (): void => undefined;
    const generation = station.generate<TokenUsage>(key, work, (part) => {
      parts.push(part as GeneratedPart); // by the protocol
      wake();
    });
    generation.answer
      .then(
        (told) => (usage = told),
        (error: Error) => (failure = error),
      )
      .finally(() => {
        release();
        wake();
      });
    const cancel = (): void => {
      station.cancel(generation.id);
      wake();
    };
    signal.addEventListener('abort', cancel, { once: true });
    try {
      for (;;) {
        const part = parts.shift();
        if (signal.aborted) throw stopped('inference', call);
        if (part !== undefined) {
          station.taken(generation.id, 1);
          const { text, finishReason } = part;
          yield { delta: { content: text }, ...(finishReason && { finishReason }) };
        } else if (failure !== undefined) {
          throw failure;
        } else if (usage !== undefined) {
          yield { usage };
          return;
        } else {
          await new Promise<void>((resolve) => (wake = resolve));
        }
      }
    } finally {
      signal.removeEventListener('abort', cancel);
      station.cancel(generation.id);
    }
  }

  async rerank({ model, query, texts }: RerankRequest, call: BackendCall) {
    const work: Work = { kind: 'rerank', query, texts };
    const { scores, tokens } = await this.#run<ScoresAnswer>(model, undefined, work, call);
    return { scores: [...scores], tokens };
  }

  async classify({ model, texts }: ClassifyRequest, call: BackendCall) {
    const { entry } = await this.#usable(model);
    const labels = entry.manifest?.labels ?? [];
    const work: Work = { kind: 'classify', texts };
    const { scores, tokens } = await this.#run<ScoresAnswer>(model, undefined, work, call);
    const results = texts.map((_text, row) =>
      labels
        .map((label, at) => ({ label, score: scores[row * labels.length + at] ?? 0 }))
        .toSorted((a, b) => b.score - a.score),
    );
    return { results, tokens };
  }

  async run(
    { model, version, inputs, outputs }: RunRequest,
    call: BackendCall,
  ): Promise<{ version: string; outputs: Tensor[] }> {
    const { entry } = await this.#usable(model, version);
    const work: Work = { kind: 'run', inputs, outputs };
    return {
      version: entry.version,
      outputs: await this.#run<Tensor[]>(model, version, work, call),
    };
  }

  tokenize(model: string, texts: readonly string[], call: BackendCall): Promise<TokenPlace[][]> {
    return this.#run(model, undefined, { kind: 'tokenize', texts }, call);
  }

  async load(model: string, version: string | undefined, call: BackendCall): Promise<ModelView> {
    const { key, entry } = await this.#usable(model, version, true);
    const [first, ...others] = this.#crewOf(key).stations;
    const loading = this.#loadAt(key, first, others);
    const { promise: left, reject } = Promise.withResolvers<never>();
    const leave = (): void => reject(stopped('inference', call));
    call.signal.addEventListener('abort', leave, { once: true });
    try {
      await Promise.race([loading, left]);
    } finally {
      call.signal.removeEventListener('abort', leave);
    }
    return this.#view(entry);
  }

  /** At one worker, and then at those for whose copy there is room. */
  async #loadAt(key: Key, first: Station | undefined, others: readonly Station[]): Promise<void> {
    if (first !== undefined) await this.#prepare(first, key);
    for (const station of others) if (this.#hasRoom(key)) await this.#prepare(station, key);
  }

  async unload(model: string, version: string | undefined): Promise<ModelView> {
    await this.#scan();
    const entry = this.#options.registry.find(model, version);
    if (entry === undefined) throw new NoaError('NOT_FOUND', `there is no model ${model}`);
    const key = keyOf(entry);
    for (const station of this.#stations()) {
      if (station.uses(key)) {
        const text = `model ${model} is at work: try again when it is not`;
        throw new NoaError('CONFLICT', text, { retryAfterMs: 1000 });
      }
    }
    for (const station of this.#stations()) station.unload(key);
    return this.#view(entry);
  }

  /** A host without models serves: what is asked of it is answered with words. */
  check(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    clearInterval(this.#timer);
    this.#trusted.close();
    this.#untrusted.close();
    return Promise.resolve();
  }

  async #run<Answer>(
    model: string,
    version: string | undefined,
    work: Work,
    call: BackendCall,
  ): Promise<Answer> {
    const { key } = await this.#usable(model, version);
    return this.#crewOf(key).run<Answer>(key, work, call);
  }

  #scan(): Promise<void> {
    this.#scanned ??= this.#options.registry.rescan().catch((error: unknown) => {
      this.#scanned = undefined;
      throw error;
    });
    return this.#scanned;
  }

  /** The model, unless it failed a moment ago. */
  async #usable(
    model: string,
    version?: string,
    isForced = false,
  ): Promise<{ key: Key; entry: ModelEntry }> {
    await this.#scan();
    const entry = this.#options.registry.find(model, version);
    if (entry === undefined) throw new NoaError('NOT_FOUND', `there is no model ${model}`);
    if (entry.reason !== undefined) {
      throw new NoaError('INVALID_ARGUMENT', `model ${model} is of no use: ${entry.reason}`);
    }
    const key = keyOf(entry);
    const failure = this.#failures.get(key);
    const retryAfterMs = (failure?.until ?? 0) - this.#options.now();
    if (failure !== undefined && retryAfterMs > 0 && !isForced) {
      const text = `model ${model} cannot be loaded: ${failure.reason}`;
      throw new NoaError('UNAVAILABLE', text, { retryAfterMs });
    }
    this.#usedAt.set(key, this.#options.now());
    return { key, entry };
  }

  #crewOf(key: Key): Crew {
    const id = key.slice(0, key.lastIndexOf('@'));
    const isUntrusted = this.#options.untrusted.some((pattern) =>
      pattern.endsWith('*') ? id.startsWith(pattern.slice(0, -1)) : id === pattern,
    );
    return isUntrusted ? this.#untrusted : this.#trusted;
  }

  *#stations(): Generator<Station> {
    yield* this.#trusted.stations;
    yield* this.#untrusted.stations;
  }

  /** Has a worker load a model, and others go when there is no room for it. */
  async #prepare(station: Station, key: Key): Promise<void> {
    this.#usedAt.set(key, this.#options.now());
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
    const wanted = device === 'auto' ? (this.#device ?? 'cuda') : device;
    try {
      await station.load(key, files, wanted);
      this.#device ??= wanted;
    } catch (error) {
      if (device !== 'auto' || wanted === 'cpu' || error instanceof WorkerLostError) throw error;
      await station.load(key, files, 'cpu');
      this.#device = 'cpu';
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
    const oldestFirst = [...this.#stations()]
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
  #hasRoom(key: Key): boolean {
    const needed = this.#sizes.get(key) ?? 0;
    let idle = 0;
    for (const station of this.#stations()) {
      for (const [loaded, bytes] of station.loaded) {
        if (loaded !== key && !station.uses(loaded)) idle += bytes;
      }
    }
    return this.#taken - idle + needed <= this.#options.memoryBytes;
  }

  #unloadUnused(): void {
    const now = this.#options.now();
    for (const station of this.#stations()) {
      for (const key of Array.from(station.loaded.keys())) {
        const at = key.lastIndexOf('@');
        const entry = this.#options.registry.find(key.slice(0, at), key.slice(at + 1));
        const keepMs = entry?.manifest?.keepAliveMs ?? Infinity;
        const isUnused = now - (this.#usedAt.get(key) ?? 0) > keepMs;
        if (isUnused && !station.uses(key)) station.unload(key);
      }
    }
  }

  #view(entry: ModelEntry): ModelView {
    const { id, version, manifest } = entry;
    const key = keyOf(entry);
    const stations = [...this.#stations()];
    const failure = entry.reason ?? this.#failures.get(key)?.reason;
    const isReady = stations.some(({ loaded }) => loaded.has(key));
    const isLoading = stations.some((station) => station.uses(key));
    const state = isReady ? 'ready' : isLoading ? 'loading' : failure ? 'failed' : 'available';
    const bytes = this.#sizes.get(key) ?? entry.bytes;
    const { description, dimensions, limits, licence, inputs, outputs } = manifest ?? {};
    return {
      id,
      version,
      task: manifest?.task ?? 'tensor',
      state,
      backend: 'local',
      ...(description !== undefined && { description }),
      ...(dimensions !== undefined && { dimensions }),
      ...(limits?.maxTokens !== undefined && { maxTokens: limits.maxTokens }),
      ...(licence !== undefined && { licence }),
      ...(isReady && this.#device !== undefined && { device: this.#device }),
      ...(bytes !== undefined && { bytes }),
      ...(inputs && { inputs }),
      ...(outputs && { outputs }),
      ...(state === 'failed' && { reason: failure ?? '' }),
    };
  }
}

function keyOf({ id, version }: ModelEntry): Key {
  return `${id}@${version}`;
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / (1 << 20))} MiB`;
}
