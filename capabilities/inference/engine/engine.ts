/**
 * The models of this host, run by workers. Invariant: a model is loaded when it is first asked for, by as many
 * workers as are asked and have room for it.
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
import { isLlama } from '../models/llama.ts';
import { maxTokensOf, PRESET_TOKENS } from '../models/manifest.ts';
import type { ModelEntry, ModelRegistry } from '../models/registry.ts';
import type { Device, GeneratedPart } from '../models/runner.ts';
import { Crew } from './crew.ts';
import { openProcess } from './lane.ts';
import { promptOf, readParameters, turnsOf } from './parameters.ts';
import type { Key, ScoresAnswer, Work } from './protocol.ts';
import { Shelf } from './shelf.ts';
import type { Station } from './station.ts';

const LOOK_MS = 10_000;

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

export class Engine implements Backend {
  readonly #options: EngineOptions;
  readonly #trusted: Crew;
  /** One worker that takes all threads: it holds models that are too large for a copy at each core. */
  readonly #llama: Crew;
  readonly #untrusted: Crew;
  readonly #shelf: Shelf;
  readonly #timer: NodeJS.Timeout;
  #scanned: Promise<void> | undefined;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#shelf = new Shelf({ ...options, stations: () => this.#stations() });
    const { maxBatch, maxQueued, limitMs, observeBatch, now, onNotice } = options;
    const crew = {
      maxBatch,
      maxQueued,
      limitMs,
      observeBatch,
      now,
      prepare: (station: Station, key: Key) => this.#shelf.prepare(station, key),
      hasRoom: (key: Key) => this.#shelf.hasRoom(key),
      onLost: (reason: string) => onNotice(`a worker of inference ended: ${reason}`),
    };
    const { workers } = options;
    this.#trusted = new Crew({ ...crew, open: openProcess, workers, threads: 1 });
    this.#llama = new Crew({ ...crew, open: openProcess, workers: 1, threads: workers });
    this.#untrusted = new Crew({ ...crew, open: openProcess, workers: 1, threads: workers });
    this.#timer = setInterval(() => this.#shelf.unloadUnused(), LOOK_MS).unref();
  }

  get #crews(): readonly Crew[] {
    return [this.#trusted, this.#llama, this.#untrusted];
  }

  /** What waits for a worker. */
  get queued(): number {
    return this.#crews.reduce((sum, { queued }) => sum + queued, 0);
  }

  /** Bytes of the models in all workers. */
  get memoryBytes(): number {
    return this.#shelf.memoryBytes;
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
    { model, texts, truncate, priority, dimensions }: EmbedRequest,
    call: BackendCall,
  ): Promise<Embedded> {
    const { key, entry } = await this.#usable(model);
    const whole = entry.manifest?.dimensions;
    if (dimensions !== undefined && dimensions !== whole) {
      const text = `dimensions: ${model} has ${whole ?? 'its own'} and cannot give ${dimensions}`;
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    return this.#crewOf(key).embed(key, { texts, truncate, priority }, call);
  }

  async *generate(request: GenerateRequest, call: BackendCall): AsyncIterable<GenerateItem> {
    const { key, entry } = await this.#usable(request.model);
    const most = entry.manifest === undefined ? PRESET_TOKENS : maxTokensOf(entry.manifest);
    const parameters = readParameters(request.parameters, most);
    const prompt = promptOf(request);
    const work: Work = { kind: 'generate', prompt, turns: turnsOf(request), parameters };
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
    if (first !== undefined) await this.#shelf.prepare(first, key);
    for (const station of others)
      if (this.#shelf.hasRoom(key)) await this.#shelf.prepare(station, key);
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
    for (const crew of this.#crews) crew.close();
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
    const failure = this.#shelf.failureOf(key);
    const retryAfterMs = (failure?.until ?? 0) - this.#options.now();
    if (failure !== undefined && retryAfterMs > 0 && !isForced) {
      const text = `model ${model} cannot be loaded: ${failure.reason}`;
      throw new NoaError('UNAVAILABLE', text, { retryAfterMs });
    }
    this.#shelf.use(key);
    return { key, entry };
  }

  #crewOf(key: Key): Crew {
    const id = key.slice(0, key.lastIndexOf('@'));
    const isUntrusted = this.#options.untrusted.some((pattern) =>
      pattern.endsWith('*') ? id.startsWith(pattern.slice(0, -1)) : id === pattern,
    );
    if (isUntrusted) return this.#untrusted;
    const graph = this.#options.registry.find(id, key.slice(id.length + 1))?.manifest?.graph ?? '';
    return isLlama({ graph }) ? this.#llama : this.#trusted;
  }

  *#stations(): Generator<Station> {
    for (const { stations } of this.#crews) yield* stations;
  }

  #view(entry: ModelEntry): ModelView {
    const { id, version, manifest } = entry;
    const key = keyOf(entry);
    const stations = [...this.#stations()];
    const failure = entry.reason ?? this.#shelf.failureOf(key)?.reason;
    const isReady = stations.some(({ loaded }) => loaded.has(key));
    const isLoading = stations.some((station) => station.uses(key));
    const state = isReady ? 'ready' : isLoading ? 'loading' : failure ? 'failed' : 'available';
    const bytes = this.#shelf.bytesOf(key) ?? entry.bytes;
    const { description, dimensions, limits, licence, inputs, outputs } = manifest ?? {};
    const device = this.#shelf.deviceOf({ graph: manifest?.graph ?? '' });
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
      ...(isReady && device !== undefined && { device }),
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
