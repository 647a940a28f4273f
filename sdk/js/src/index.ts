/** What plugin authors import. */
export { NoaError, type ErrorCode } from './errors.ts';
export {
  definePlugin,
  type Context,
  type Handlers,
  type PluginContract,
  type PluginDefinition,
} from './guest/define.ts';
export type { CloudEvent } from './cloud-event.ts';
export type { Json } from './json.ts';
export type {
  CollectionInfo,
  Filter,
  Generated,
  GeneratedItem,
  Inference,
  ModelInfo,
  Point,
  SparseVector,
  TensorData,
  TokenUsage,
  VectorForm,
  VectorPort,
} from './model-ports.ts';
export type {
  BlobEntry,
  BlobPort,
  Cache,
  CacheLock,
  Capabilities,
  Clock,
  Db,
  Emit,
  EventsPort,
  Http,
  HttpAnswer,
  HttpRequest,
  Log,
  PluginPort,
  Random,
  Secrets,
  CallBudget,
  SqlParameter,
  SqlResult,
  SqlStatement,
} from './ports.ts';
