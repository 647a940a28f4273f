/** What runs models for this process: its own engine, and the groups of upstreams that the configuration names. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import type { Backend } from '../capabilities/inference/backend.ts';
import { Engine } from '../capabilities/inference/engine/engine.ts';
import { ModelRegistry } from '../capabilities/inference/models/registry.ts';
import { createUpstreams } from '../capabilities/inference/upstreams/upstreams.ts';
import { readAuthorities } from '../capabilities/http/authorities.ts';
import type { Config } from './config.ts';
import type { Models } from './kernel/models.ts';
import type { Metrics } from './telemetry/metrics.ts';

/** Longest wait for a model that an administrator has loaded. */
const LOAD_MS = 120_000;
/** A run that takes so many times what a request may take is ended with its worker. */
const PATIENCE = 4;

export interface ModelsOptions {
  readonly dataPath: string;
  /** File of the certificate authorities that are trusted beside the public ones. */
  readonly authorities: string | undefined;
  readonly metrics: Pick<Metrics, 'inferenceBatch' | 'inferenceQueue'>;
  readonly warn: (message: string) => void;
}

/** Nothing is loaded before it is asked for. */
export function openModels(
  inference: Config['inference'],
  { dataPath, authorities, metrics, warn }: ModelsOptions,
): { readonly backends: readonly Backend[]; readonly models: Models } {
  const { model_path, workers, max_batch_size, max_queued, timeout_ms, memory_mib } = inference;
  const engine = new Engine({
    registry: new ModelRegistry({
      cache: join(dataPath, 'models'),
      paths: model_path === undefined ? [] : [model_path],
    }),
    workers: workers === 0 ? availableParallelism() : workers,
    maxBatch: max_batch_size,
    maxQueued: max_queued,
    limitMs: PATIENCE * timeout_ms,
    memoryBytes: memory_mib * (1 << 20),
    device: inference.device,
    untrusted: inference.untrusted ?? [],
    observeBatch: metrics.inferenceBatch,
    onNotice: warn,
    now: Date.now,
  });
  metrics.inferenceQueue({ queued: () => engine.queued, memoryBytes: () => engine.memoryBytes });
  const upstreams = createUpstreams(inference.upstreams ?? [], {
    warn,
    authorities: authorities === undefined ? undefined : readAuthorities(authorities),
  });
  const backends = [engine, upstreams];
  const local = async (model: string, version: string | undefined): Promise<void> => {
    if ((await engine.find(model, version)) !== undefined) return;
    const text = `model: this host has no ${JSON.stringify(model)} of its own: noa model list`;
    throw new NoaError('NOT_FOUND', text);
  };
  const models: Models = {
    list: async () => (await Promise.all(backends.map((each) => each.models()))).flat(),
    load: async (model, version, signal) => {
      await local(model, version);
      const deadline = Date.now() + LOAD_MS;
      const bounded = AbortSignal.any([signal, AbortSignal.timeout(LOAD_MS)]);
      return engine.load(model, version, { plugin: 'host', deadline, signal: bounded });
    },
    unload: async (model, version) => {
      await local(model, version);
      return engine.unload(model, version);
    },
  };
  return { backends, models };
}
