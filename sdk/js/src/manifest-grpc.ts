/**
 * The part of a manifest by which a plugin answers gRPC methods: the methods there are, its schema, and the
 * rules between it and the exports.
 */
import type { JsonSchema } from './json.ts';
import type { Manifest } from './manifest.ts';
import type { Finding } from './schema-check.ts';

/** The methods that plugins answer, as `proto/` of the host has them, and whether each answers with a stream. */
export const GRPC_METHODS: ReadonlyMap<string, { readonly stream: boolean }> = new Map([
  ['noa.api.v1.InferenceService/Invoke', { stream: false }],
  ['noa.api.v1.InferenceService/Stream', { stream: true }],
  ['noa.api.v1.RetrievalService/Retrieve', { stream: false }],
  ['noa.api.v1.OrchestrationService/Execute', { stream: false }],
  ['noa.api.v1.OrchestrationService/Watch', { stream: true }],
  ['noa.ui.UiSchemaService/GetPage', { stream: false }],
]);

const METHODS = [...GRPC_METHODS.keys()];

export const GRPC: JsonSchema = {
  title: 'gRPC methods',
  type: 'array',
  maxItems: METHODS.length,
  description: 'gRPC methods that exports answer; no two plugins answer the same one.',
  items: {
    type: 'object',
    description: 'A method and the export that answers it.',
    additionalProperties: false,
    required: ['method', 'export'],
    properties: {
      method: {
        title: 'Method',
        enum: METHODS,
        description: 'The full name of a method that plugins answer.',
      },
      export: {
        title: 'Export',
        type: 'string',
        minLength: 1,
        maxLength: 64,
        description: 'The name of one of the exports of this manifest.',
      },
    },
  },
};

/** What breaks a rule between these methods and the exports. */
export function* grpcMethods({ contributes, exports }: Manifest): Generator<Finding> {
  const first = new Map<string, number>();
  for (const [i, { method, export: target }] of (contributes?.grpc ?? []).entries()) {
    const path = `/contributes/grpc/${i}`;
    const twin = first.get(method);
    if (twin === undefined) first.set(method, i);
    else {
      const message = `is answered by /contributes/grpc/${twin} already`;
      yield { path: `${path}/method`, rule: 'duplicate', message, fix: 'Remove one.' };
    }
    const spec = Object.hasOwn(exports, target) ? exports[target] : undefined;
    if (spec === undefined) {
      const fix = `Name one of the exports: ${Object.keys(exports).slice(0, 10).join(', ')}.`;
      const message = 'names no export of this manifest';
      yield { path: `${path}/export`, rule: 'export', message, fix };
      continue;
    }
    for (const part of ['input', 'output'] as const) {
      const type = spec[part]?.['type'];
      if (type === undefined || [type].flat().includes('object')) continue;
      const message = `leads to ${target}, whose ${part} is no object`;
      yield { path: `${path}/export`, rule: part, message, fix: 'A message is an object.' };
    }
    if (spec.stream === true && GRPC_METHODS.get(method)?.stream === false) {
      const message = `leads to ${target}, which streams, and the method answers once`;
      const fix = 'Name an export without "stream", or a method that streams.';
      yield { path: `${path}/export`, rule: 'stream', message, fix };
    }
  }
}
