/**
 * The part of a manifest by which a plugin takes part in the requests of others: gateway hooks. Their
 * schema, and the rules between them and the exports.
 */
import type { JsonSchema } from './json.ts';
import type { Manifest } from './manifest.ts';
import type { Finding } from './schema-check.ts';

const OPERATION = '([A-Z]{1,16} )?[!-)+-~]{1,200}';

export const HOOKS: JsonSchema = {
  title: 'Gateway hooks',
  type: 'array',
  maxItems: 16,
  description: 'Exports that the host calls before a request or after its answer, at most 16.',
  items: {
    type: 'object',
    description: 'When an export is called, and for which operations. It needs a grant.',
    additionalProperties: false,
    required: ['on', 'export', 'operations'],
    properties: {
      on: {
        title: 'Moment',
        enum: ['beforeRequest', 'afterResponse'],
        description: '"beforeRequest", which may refuse it, or "afterResponse".',
      },
      export: {
        title: 'Export',
        type: 'string',
        minLength: 1,
        maxLength: 64,
        description: 'The name of one of the exports of this manifest.',
      },
      operations: {
        title: 'Operations',
        type: 'array',
        minItems: 1,
        maxItems: 32,
        uniqueItems: true,
        items: {
          type: 'string',
          pattern: `^(${OPERATION}\\*?|\\*)$`,
          description:
            'An operation such as "GET /plugins/notes/notes/:id", or a prefix that ends in *.',
        },
        description:
          'Operations, or prefixes of them that end in *, for example ["POST /orders/*"].',
      },
      order: {
        title: 'Order',
        type: 'integer',
        minimum: -1000,
        maximum: 1000,
        description:
          'Hooks of a lower order run first, a whole number from -1000 to 1000; 0 when absent.',
      },
      failOpen: {
        title: 'Fail open',
        type: 'boolean',
        description:
          'true when requests go on while this hook fails; else they are refused. For beforeRequest alone.',
      },
    },
  },
};

/** What breaks a rule between the hooks and the rest of the manifest. */
export function* hooks({ contributes, exports }: Manifest): Generator<Finding> {
  const known = Object.keys(exports).slice(0, 10).join(', ');
  for (const [i, { on, export: target, failOpen }] of (contributes?.hooks ?? []).entries()) {
    const path = `/contributes/hooks/${i}`;
    if (!Object.hasOwn(exports, target)) {
      const fix = `Name one of the exports: ${known}.`;
      const message = 'names no export of this manifest';
      yield { path: `${path}/export`, rule: 'export', message, fix };
      continue;
    }
    const type = exports[target]?.input?.['type'];
    if (type !== undefined && ![type].flat().includes('object')) {
      const message = `leads to ${target}, which takes no object`;
      yield { path, rule: 'input', message, fix: 'Have the export take an object.' };
    }
    if (on === 'afterResponse' && failOpen !== undefined) {
      const message = 'has no meaning after the answer';
      yield { path: `${path}/failOpen`, rule: 'hook', message, fix: 'Remove it.' };
    }
  }
}
