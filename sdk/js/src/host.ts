/** What hosts and capability authors import. Plugins import `@noa/sdk`; this entry carries none of the guest's engine. */
export { bareEnvironment } from './bare-environment.ts';
export * from './capability.ts';
export type { CloudEvent } from './cloud-event.ts';
export { nextCronTime } from './cron.ts';
export * from './errors.ts';
export * from './json.ts';
export { JSON_BOUNDS, jsonExcess, parseJson } from './json-text.ts';
export * from './manifest.ts';
export { GRPC_METHODS } from './manifest-grpc.ts';
export { MANIFEST_SCHEMA, LIMIT_RANGES, PLAIN_TEXT, PLUGIN_NAME } from './manifest-schema.ts';
export { parseManifest } from './manifest-parse.ts';
export { compileSchema, type SchemaViolation, type CompiledSchema } from './schema.ts';
export { isSchema, resolveRef, subschemas } from './schema-walk.ts';
export { secretPointers } from './schema-secrets.ts';
export { compileCoercion, type TextParameters } from './schema-coerce.ts';
export { BUNDLE_LIMITS, readBundle, type Bundle, type BundleLimits } from './author/bundle.ts';
export { toBody } from './guest/describe.ts';
export { withFetch } from './native-fetch.ts';
export { makePorts } from './native-ports.ts';
export { nearest } from './nearest.ts';
export { mapStack } from './stack.ts';
export * from './tracing.ts';
export {
  type Condition,
  type Filter,
  filterSchema,
  matches,
  readFilter,
  valuesAt,
  wordsOf,
} from './vector-filter.ts';
