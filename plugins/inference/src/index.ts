/** Models for callers: natively, as OpenAI's API, by the Open Inference Protocol, and over gRPC. */
import { definePlugin } from '@noa/sdk';
import { invoke, streamed } from './grpc.ts';
import { embed, infer, rerank, tokenize } from './native.ts';
import type { Plugin } from './noa.gen.ts';
import {
  modelInfer,
  modelMetadata,
  modelReady,
  server,
  serverLive,
  serverReady,
} from './open-inference.ts';
import { chat, completions, embeddings, model, models } from './openai.ts';

export default definePlugin<Plugin>({
  infer,
  embed,
  rerank,
  tokenize,
  embeddings,
  chat,
  completions,
  models,
  model,
  server,
  serverLive,
  serverReady,
  modelMetadata,
  modelReady,
  modelInfer,
  invoke,
  streamed,
});
