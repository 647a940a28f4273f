/**
 * The JSON Schema of `plugin.json`, published for editors as `@noa/sdk/plugin.schema.json`. It holds the
 * rules that a schema can say; the rules between fields are in manifest-parse.ts. Every `description`
 * says how the value is written, because errors quote it as the fix. The patterns run on the native
 * engine and are linear.
 */
import type { JsonSchema } from './json.ts';
import type { Limits } from './manifest.ts';
import { GRPC } from './manifest-grpc.ts';
import { HOOKS } from './manifest-hooks.ts';
import { SCHEDULES, SUBSCRIPTIONS } from './manifest-triggers.ts';

/** Least and greatest value that a manifest may ask for. */
export const LIMIT_RANGES: { readonly [key in keyof Limits]: readonly [number, number] } = {
  memoryMiB: [1, 1024],
  timeoutMs: [10, 600_000],
  concurrency: [1, 1024],
  maxInputBytes: [1, 16 << 20],
  maxOutputBytes: [1, 16 << 20],
};

/** Keys that objects inherit; as a name they would read as present where they are not. */
const INHERITED = Object.getOwnPropertyNames(Object.prototype);

const NAME = '^[a-z][a-z0-9]*(-[a-z0-9]+)*$';
/** semver.org, version 2.0.0, without the build part's alternatives spelled out. */
const SEMVER =
  '^(0|[1-9]\\d*)\\.(0|[1-9]\\d*)\\.(0|[1-9]\\d*)(-(0|[1-9]\\d*|\\d*[A-Za-z-][0-9A-Za-z-]*)(\\.(0|[1-9]\\d*|\\d*[A-Za-z-][0-9A-Za-z-]*))*)?(\\+[0-9A-Za-z-]+(\\.[0-9A-Za-z-]+)*)?$';

/** Inside a class: controls, line separators, and marks that are not seen or reorder what is shown. */
const UNSEEN =
  '\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff';
/** Text that people decide by: what they see is what it says. */
export const PLAIN_TEXT: string = `^[^${UNSEEN}]*$`;

const text = (title: string, maxLength: number, description: string): JsonSchema => ({
  title,
  type: 'string',
  minLength: 1,
  maxLength,
  pattern: PLAIN_TEXT,
  description,
});

const limit = (key: keyof Limits, title: string, unit: string): JsonSchema => {
  const [minimum, maximum] = LIMIT_RANGES[key];
  const description = `${unit}, a whole number from ${minimum} to ${maximum}.`;
  return { title, type: 'integer', minimum, maximum, description };
};

const pluginName = (title: string, description: string): JsonSchema => ({
  title,
  type: 'string',
  maxLength: 48,
  pattern: NAME,
  not: {
    anyOf: [{ enum: ['noa', 'public', 'information-schema', ...INHERITED] }, { pattern: '^pg-' }],
  },
  description,
});

const version: JsonSchema = {
  type: 'string',
  maxLength: 64,
  pattern: SEMVER,
  description: 'A semantic version without a leading v, for example 1.0.0.',
};

const range = (title: string, description: string): JsonSchema => text(title, 128, description);

/** A plugin's own name. */
export const PLUGIN_NAME: JsonSchema = pluginName(
  'Name',
  'Lower-case words of letters and digits joined by single hyphens, at most 48 characters, for example my-notes; not noa, public, information-schema or pg-….',
);

const schemaOf = (what: string): JsonSchema => ({
  type: 'object',
  description: `JSON Schema (2020-12) of ${what}.`,
});

const exportSpec: JsonSchema = {
  type: 'object',
  description: 'What callers may send to this function and what it answers.',
  additionalProperties: false,
  properties: {
    input: schemaOf('the input; checked before the plugin sees it'),
    output: schemaOf('the output; checked before the caller sees it'),
    timeoutMs: limit('timeoutMs', 'Deadline', 'Milliseconds that one call may take'),
    idempotent: {
      type: 'boolean',
      description:
        'true when the host may repeat a call that failed for a reason outside the plugin.',
    },
    stream: {
      type: 'boolean',
      description:
        'true when the function may emit values before it answers; a caller that takes no stream gets {items, result}.',
    },
  },
};

const route: JsonSchema = {
  type: 'object',
  description: 'An HTTP route below /plugins/<name> that leads to an export.',
  additionalProperties: false,
  required: ['method', 'path', 'export'],
  properties: {
    method: {
      type: 'string',
      enum: ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'],
      description: 'The HTTP method: GET, POST, PUT, PATCH or DELETE.',
    },
    path: {
      type: 'string',
      maxLength: 200,
      pattern: '^/$|^(/([A-Za-z0-9_~-][A-Za-z0-9._~-]*|:[A-Za-z][A-Za-z0-9_]*))+$',
      description:
        'Segments of letters, digits and . _ ~ - (not starting with a dot), or :param, for example /notes/:id.',
    },
    export: text('Export', 64, 'The name of one of the exports of this manifest.'),
    status: {
      type: 'integer',
      minimum: 200,
      maximum: 299,
      description: 'The status of a successful answer, 200 to 299; 200 when absent.',
    },
    summary: text('Summary', 100, 'One line for the reference, for example "Create a note".'),
    at: {
      const: 'root',
      description: '"root", of a built-in plugin: the path is the host\'s own.',
    },
    dialect: {
      enum: ['openai', 'oip'],
      description: 'The API whose form errors and streams have; of a path at the root.',
    },
    streams: {
      const: 'body',
      description:
        '"body": a request whose member "stream" is true is answered as a stream, any other with the result alone.',
    },
    takes: {
      type: 'array',
      minItems: 1,
      maxItems: 16,
      uniqueItems: true,
      items: {
        type: 'string',
        maxLength: 100,
        pattern: '^[a-z]+/[a-z0-9.+-]+$',
        description: 'A media type in lower case, for example application/pdf.',
      },
      description: 'Media types of bodies that are taken as bytes; of a path at the root.',
    },
  },
};

const capability: JsonSchema = {
  type: 'object',
  description: 'One request for rights. An administrator grants it, or not.',
  additionalProperties: false,
  required: ['capability', 'operations', 'resources', 'reason'],
  properties: {
    capability: {
      type: 'string',
      maxLength: 48,
      pattern: NAME,
      description: 'The name of a capability, for example db, cache or plugin.',
    },
    operations: {
      type: 'array',
      minItems: 1,
      maxItems: 32,
      uniqueItems: true,
      items: {
        type: 'string',
        maxLength: 48,
        pattern: '^[a-z][A-Za-z0-9]*$',
        description: 'The name of an operation, for example query.',
      },
      description: 'The operations the plugin uses, each once, for example ["query", "execute"].',
    },
    resources: {
      type: 'array',
      minItems: 1,
      maxItems: 64,
      uniqueItems: true,
      items: {
        type: 'string',
        maxLength: 256,
        pattern: `^(([A-Z]+ )?[^*\\s${UNSEEN}]+\\*?|\\*)$`,
        description:
          'An exact name, or a prefix that ends in *, for example notes.* or notes/list.',
      },
      description: 'What the operations may touch: exact names or prefixes that end in *.',
    },
    optional: {
      type: 'boolean',
      description:
        'true when the plugin serves without it; its use is refused until it is granted.',
    },
    reason: text('Reason', 500, 'One sentence for the administrator who decides.'),
  },
};

const dependency: JsonSchema = {
  type: 'object',
  description: 'Another plugin that this one needs.',
  additionalProperties: false,
  required: ['plugin'],
  properties: {
    plugin: PLUGIN_NAME,
    version: range('Version range', 'A semver range, for example ^1.2.0; any version when absent.'),
    optional: {
      type: 'boolean',
      description: 'true when this plugin starts without the other one.',
    },
  },
};

export const MANIFEST_SCHEMA: JsonSchema = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  title: 'NOA plugin manifest',
  description: 'What a plugin is, what it offers and which rights it asks for.',
  type: 'object',
  additionalProperties: false,
  required: ['name', 'version', 'runtime', 'exports'],
  properties: {
    $schema: text('Schema', 500, 'The schema that editors check this file against.'),
    name: PLUGIN_NAME,
    version,
    description: text('Description', 1000, 'What the plugin does, in a sentence.'),
    license: text('License', 100, 'An SPDX expression, for example MIT.'),
    homepage: {
      title: 'Homepage',
      type: 'string',
      maxLength: 500,
      pattern: `^https?://[^\\s${UNSEEN}"<>\\\\]+$`,
      description: 'An http or https URL.',
    },
    noa: range('ABI range', 'A semver range of the plugin ABI, for example ^1.0.0.'),
    runtime: {
      title: 'Runtime',
      type: 'object',
      description: 'The module to run: {"kind": "wasm", "file": "dist/<name>.wasm"}.',
      additionalProperties: false,
      required: ['kind'],
      properties: {
        kind: {
          enum: ['wasm', 'native', 'builtin'],
          description:
            '"wasm": a WebAssembly module; or "native": a JavaScript module without a sandbox, for hosts whose operator listed this very file; "builtin" is for parts of the host.',
        },
        file: {
          type: 'string',
          maxLength: 200,
          pattern: '^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*\\.(wasm|m?js)$',
          description:
            'A path inside the plugin, with forward slashes, that ends in .wasm; of a native plugin in .js or .mjs.',
        },
        sha256: {
          type: 'string',
          pattern: '^[0-9a-f]{64}$',
          description: '64 lower-case hex digits: SHA-256 of the module; packing fills it in.',
        },
      },
    },
    needs: {
      title: 'Needs',
      type: 'array',
      maxItems: 64,
      items: dependency,
      description: 'Plugins that must be there before this one starts.',
    },
    provides: {
      title: 'Provides',
      type: 'object',
      maxProperties: 64,
      propertyNames: PLUGIN_NAME,
      additionalProperties: version,
      description: 'Other names this plugin answers to, each with the version provided.',
    },
    exports: {
      title: 'Exports',
      type: 'object',
      minProperties: 1,
      maxProperties: 256,
      propertyNames: {
        type: 'string',
        maxLength: 64,
        pattern: '^[A-Za-z][A-Za-z0-9_]*$',
        not: { enum: ['memory', 'hs_init', ...INHERITED] },
        description:
          'An export is named by a letter, then letters, digits or underscores, at most 64 characters; not memory, constructor or another inherited name.',
      },
      additionalProperties: exportSpec,
      description: 'The functions that callers, routes and other plugins may call, at least one.',
    },
    contributes: {
      title: 'Contributes',
      type: 'object',
      description:
        'What the plugin adds to the host: routes, gRPC methods, subscriptions and schedules.',
      additionalProperties: false,
      properties: {
        routes: {
          title: 'Routes',
          type: 'array',
          maxItems: 256,
          items: route,
          description: 'HTTP routes below /plugins/<name>, at most 256.',
        },
        grpc: GRPC,
        subscriptions: SUBSCRIPTIONS,
        schedules: SCHEDULES,
        hooks: HOOKS,
      },
    },
    capabilities: {
      title: 'Capability requests',
      type: 'array',
      maxItems: 64,
      items: capability,
      description: 'The rights that the plugin asks for, at most 64 requests.',
    },
    config: {
      title: 'Configuration',
      ...schemaOf('the configuration; a property with "secret": true is never shown'),
    },
    limits: {
      title: 'Limits',
      type: 'object',
      description: 'Bounds that differ from the defaults.',
      additionalProperties: false,
      properties: {
        memoryMiB: limit('memoryMiB', 'Memory', 'MiB of memory of one instance'),
        timeoutMs: limit('timeoutMs', 'Deadline', 'Milliseconds that one call may take'),
        concurrency: limit('concurrency', 'Concurrency', 'Calls at the same time'),
        maxInputBytes: limit('maxInputBytes', 'Input', 'Bytes of one input as JSON'),
        maxOutputBytes: limit('maxOutputBytes', 'Output', 'Bytes of one output as JSON'),
      },
    },
  },
};
