/**
 * The operation table of `blob`: bytes under a path, each plugin in an area of its own. Paths are names,
 * not places: one spelling each, checked here, and never part of a file name on the host.
 */
import { type JsonSchema, NoaError, defineCapability } from '@noa/sdk/host';

/** Largest blob: as base64 it fits, with its path, into one request from the sandbox (1 MiB). */
export const MAX_BLOB_BYTES = 768_000;
/** Longest path in bytes of UTF-8. */
export const MAX_PATH_BYTES = 512;
export const DEFAULT_PAGE = 100;
const MAX_PAGE = 1000;

const SEGMENT = /^(?!\.+$)(?! )[\p{L}\p{M}\p{N}._~@+=,() -]*[\p{L}\p{M}\p{N}._~@+=,()-]$/u;

const path: JsonSchema = { type: 'string', minLength: 1, maxLength: MAX_PATH_BYTES };
const prefix: JsonSchema = { type: 'string', maxLength: MAX_PATH_BYTES };
const etag: JsonSchema = { type: 'string', minLength: 1, maxLength: 64 };
const size: JsonSchema = { type: 'integer', minimum: 0 };
const conditions = {
  ifMatch: { ...etag, description: 'Writes only over the blob with this etag.' },
  ifNoneMatch: { const: '*', description: 'Writes only where there is no blob.' },
};

interface Named {
  readonly path: string;
}

const resources = (input: Named) => [canonicalPath(input.path)];

export const blob = defineCapability({
  name: 'blob',
  summary: 'Bytes under paths in an area of the plugin’s own, on the disk of this host',
  resource: 'path prefix in the plugin’s own area, such as reports/*',
  operations: {
    read: {
      summary:
        'The content of a blob from offset on, at most length bytes; size is that of the whole',
      input: object({ path }, { offset: size, length: size }),
      output: object({ base64: { type: 'string', contentEncoding: 'base64' }, size, etag }),
      idempotent: true,
      resources,
      usage: (_input: never, output: { base64: string }) => ({
        bytes: Buffer.byteLength(output.base64, 'base64'),
      }),
    },
    write: {
      summary: `Makes or replaces a blob of at most ${MAX_BLOB_BYTES} bytes as a whole; CONFLICT when a condition fails`,
      input: {
        oneOf: [
          object(
            {
              path,
              base64: {
                type: 'string',
                contentEncoding: 'base64',
                maxLength: Math.ceil(MAX_BLOB_BYTES / 3) * 4,
              },
            },
            conditions,
          ),
          object({ path, text: { type: 'string', maxLength: MAX_BLOB_BYTES } }, conditions),
        ],
      },
      output: object({ etag, size }),
      idempotent: true,
      resources,
      usage: (_input: never, output: { size: number }) => ({ bytes: output.size }),
    },
    list: {
      summary: 'The blobs whose paths begin with prefix, in order of path; next is the next cursor',
      input: object(
        {},
        { prefix, cursor: path, limit: { type: 'integer', minimum: 1, maximum: MAX_PAGE } },
      ),
      output: object({
        entries: {
          type: 'array',
          items: object({ path, size, etag, modifiedAt: { type: 'string' } }),
        },
        next: { type: ['string', 'null'] },
      }),
      idempotent: true,
      resources: (input: { readonly prefix?: string }) => [
        `${canonicalPrefix(input.prefix ?? '')}*`,
      ],
      usage: (_input: never, output: { entries: readonly object[] }) => ({
        rows: output.entries.length,
      }),
    },
    delete: {
      summary: 'Deletes a blob; says whether there was one',
      input: object({ path }),
      output: object({ deleted: { type: 'boolean' } }),
      idempotent: false,
      resources,
    },
  },
  normalizeResource(pattern) {
    if (!pattern.endsWith('*')) return canonicalPath(pattern);
    return `${canonicalPrefix(pattern.slice(0, -1))}*`;
  },
});

/** The path itself when it is in canonical form; throws NoaError INVALID_ARGUMENT otherwise. */
export function canonicalPath(given: string): string {
  const canonical =
    Buffer.byteLength(given) <= MAX_PATH_BYTES &&
    given.normalize('NFC') === given &&
    given.split('/').every((segment) => SEGMENT.test(segment));
  if (canonical) return given;
  throw new NoaError(
    'INVALID_ARGUMENT',
    `blob: ${JSON.stringify(given.slice(0, 200))} must be a relative path of at most ${MAX_PATH_BYTES} ` +
      'bytes in NFC: segments between single slashes, of letters, digits, spaces inside and . _ ~ @ + = , ( ) -, ' +
      'none of dots alone; such as reports/2026.pdf',
  );
}

/** The beginning of canonical paths; the empty text is the beginning of all. */
function canonicalPrefix(given: string): string {
  if (given === '') return given;
  canonicalPath(`${given}x`);
  return given;
}

function object(
  required: { readonly [name: string]: JsonSchema },
  optional: { readonly [name: string]: JsonSchema } = {},
): JsonSchema {
  return {
    type: 'object',
    properties: { ...required, ...optional },
    required: Object.keys(required),
    additionalProperties: false,
  };
}
