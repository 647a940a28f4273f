/**
 * Reads `plugin.json`. Invariant: what it answers keeps every rule of the manifest, is a fresh copy
 * without inherited surprises, and each schema in it is safe to compile and to run; what breaks a rule
 * is refused with all its findings at once.
 */
import type { ErrorObject, ValidateFunction } from 'ajv/dist/2020.js';
import semver from 'semver';
import { NoaError } from './errors.ts';
import type { JsonSchema } from './json.ts';
import { effectiveLimits, type Manifest, type ModuleRuntime } from './manifest.ts';
import { hooks } from './manifest-hooks.ts';
import { MANIFEST_SCHEMA, PLAIN_TEXT } from './manifest-schema.ts';
import { grpcMethods } from './manifest-grpc.ts';
import { scheduleInputs, triggers } from './manifest-triggers.ts';
import { checkSchema, schemaBudget, type Finding } from './schema-check.ts';
import { strictAjv, violation } from './schema.ts';
import { isSchema, pointerToken } from './schema-walk.ts';
import { nearest } from './nearest.ts';

/** Greatest size of a manifest, in characters of its text. */
export const MAX_MANIFEST_CHARS: number = 1 << 20;
const MAX_DEPTH = 64;
const SHOWN = 20;
/** Resources of all requests: each is compared with each of a caller's. */
const MAX_RESOURCES = 256;

/**
 * The manifest in `source`, which is JSON text or an already parsed value. Throws NoaError
 * INVALID_ARGUMENT whose message names every finding (JSON path, rule, fix) and whose `details` is the
 * same as `Finding[]`.
 */
export function parseManifest(source: unknown): Manifest {
  const value = copy(source);
  const findings = shape(value);
  if (findings.length > 0) throw refusal(findings);
  if (!isManifest(value)) throw refusal(schemaFindings());
  const broken = [
    ...runtimeFile(value),
    ...ranges(value),
    ...routes(value),
    ...grpcMethods(value),
    ...triggers(value),
    ...hooks(value),
    ...requests(value),
    ...timeouts(value),
    ...schemas(value),
  ];
  if (broken.length > 0) throw refusal(broken);
  const refused = [...scheduleInputs(value)];
  if (refused.length > 0) throw refusal(refused);
  return value;
}

function refusal(findings: readonly Finding[]): NoaError {
  const lines = findings
    .slice(0, SHOWN)
    .map(({ path, message, fix }) => `${path === '' ? '/' : path} ${message}. ${fix}`);
  if (findings.length > SHOWN) lines.push(`… and ${findings.length - SHOWN} more`);
  return new NoaError('INVALID_ARGUMENT', `plugin.json is refused: ${lines.join(' | ')}`, {
    details: findings.slice(0, SHOWN),
  });
}

function copy(source: unknown): unknown {
  const text = typeof source === 'string' ? source : JSON.stringify(source);
  const whole = { path: '', rule: 'json', fix: 'Write one JSON object.' };
  if (text === undefined) throw refusal([{ ...whole, message: 'is missing' }]);
  if (text.length > MAX_MANIFEST_CHARS) {
    const message = `is longer than ${MAX_MANIFEST_CHARS} characters`;
    throw refusal([{ ...whole, rule: 'bounded', message, fix: 'Make it shorter.' }]);
  }
  try {
    return JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (error) {
    const message = `is not JSON: ${error instanceof Error ? error.message : String(error)}`;
    throw refusal([{ ...whole, message }]);
  }
}

/** What no rule below could bear: keys that reach a prototype, and depth that overflows a stack. */
function shape(root: unknown): Finding[] {
  const findings: Finding[] = [];
  const pending = [{ value: root, path: '', depth: 0 }];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { value, path, depth } = next;
    if (typeof value !== 'object' || value === null) continue;
    if (depth === MAX_DEPTH) {
      const message = `is nested more than ${MAX_DEPTH} levels deep`;
      return [{ path, rule: 'bounded', message, fix: 'Flatten it.' }];
    }
    for (const [key, inner] of Object.entries(value)) {
      const at = `${path}/${pointerToken(key)}`;
      if (key === '__proto__') {
        findings.push({ path: at, rule: 'key', message: 'is not a usable key', fix: 'Rename it.' });
      }
      pending.push({ value: inner, path: at, depth: depth + 1 });
    }
  }
  return findings;
}

/** Compiled once: it depends on a constant. Native patterns, because this schema is ours. */
let compiled: ValidateFunction<Manifest> | undefined;

function isManifest(value: unknown): value is Manifest {
  compiled ??= strictAjv({ allErrors: true, verbose: true, code: {} }).compile<Manifest>(
    MANIFEST_SCHEMA,
  );
  return compiled(value);
}

function schemaFindings(): Finding[] {
  return (compiled?.errors ?? [])
    .filter(({ keyword }) => keyword !== 'propertyNames') // its cause is listed by itself
    .map((error) => {
      const { path, rule, message } = violation(error);
      return {
        path,
        rule,
        message: inWords(error) ?? message,
        fix: fixOf(error),
      };
    });
}

/** What a rule means here, where the keyword alone does not tell. */
function inWords({ keyword, params }: ErrorObject): string | undefined {
  if (keyword === 'not') return 'is a reserved name';
  if (params.pattern !== PLAIN_TEXT) return undefined;
  return 'holds a control character, or one that is not seen or changes the direction of text';
}

/** The description of what should be there; for an unknown key, the known key it resembles. */
function fixOf({ keyword, params, parentSchema }: ErrorObject): string {
  const schema: JsonSchema = parentSchema ?? {};
  const properties = isSchema(schema['properties']) ? schema['properties'] : {};
  if (keyword === 'additionalProperties') {
    const near = nearest(String(params.additionalProperty), Object.keys(properties));
    return near === undefined ? 'Remove it.' : `Remove it, or write "${near}".`;
  }
  if (keyword === 'required') {
    const missing: unknown = properties[String(params.missingProperty)];
    return `Add it: ${isSchema(missing) ? String(missing['description']) : 'it has no default.'}`;
  }
  const { description } = schema;
  return typeof description === 'string' ? description : 'Correct the value.';
}

function* runtimeFile({ runtime }: Manifest): Generator<Finding> {
  // What the schema takes may still lack the one, or have the other.
  const { kind, file, sha256 }: { [key in keyof ModuleRuntime]?: string | undefined } = runtime;
  if (kind === 'builtin') {
    if (file === undefined && sha256 === undefined) return;
    const message = 'names a module, which a plugin of kind "builtin" does not have';
    yield { path: '/runtime/kind', rule: 'kind', message, fix: 'Remove file and sha256.' };
    return;
  }
  if (file === undefined) {
    const message = "must have required property 'file'";
    const fix = `Add it: the path of the module inside the plugin, for example "dist/plugin.wasm".`;
    yield { path: '/runtime', rule: 'required', message, fix };
    return;
  }
  if ((kind === 'wasm') === file.endsWith('.wasm')) return;
  const message = `is no file of a plugin of kind "${kind}"`;
  const fix = 'A file of kind "wasm" ends in .wasm, one of kind "native" in .js or .mjs.';
  yield { path: '/runtime/file', rule: 'pattern', message, fix };
}

function* ranges({ noa, needs = [] }: Manifest): Generator<Finding> {
  const fix = 'Write a semver range, for example ^1.0.0.';
  const found = [
    { path: '/noa', range: noa },
    ...needs.map((need, i) => ({ path: `/needs/${i}/version`, range: need.version })),
  ];
  for (const { path, range } of found) {
    if (range !== undefined && semver.validRange(range) === null) {
      yield { path, rule: 'range', message: 'is not a semver range', fix };
    }
  }
}

function* routes({ contributes, exports, runtime }: Manifest): Generator<Finding> {
  const first = new Map<string, number>();
  for (const [i, route] of (contributes?.routes ?? []).entries()) {
    const { method, path, export: target, at: place = 'plugin' } = route;
    const at = `/contributes/routes/${i}`;
    if (place === 'root' && runtime.kind !== 'builtin') {
      const message =
        'is for plugins of kind "builtin": others have their paths below /plugins/<name>';
      yield { path: `${at}/at`, rule: 'kind', message, fix: 'Remove it.' };
    }
    for (const key of ['dialect', 'takes'] as const) {
      if (route[key] === undefined || place === 'root') continue;
      const message = 'is for paths at the root of the host';
      yield { path: `${at}/${key}`, rule: 'kind', message, fix: 'Remove it.' };
    }
    const parameters = [...path.matchAll(/:([A-Za-z0-9_]+)/g)].map(([, name]) => String(name));
    const key = `${place} ${method} ${path.replaceAll(/:[A-Za-z0-9_]+/g, ':')}`;
    const twin = first.get(key);
    if (twin === undefined) first.set(key, i);
    else {
      const message = `matches the same requests as /contributes/routes/${twin}`;
      yield {
        path: at,
        rule: 'duplicate',
        message,
        fix: 'Remove one, or change its method or path.',
      };
    }
    if (new Set(parameters).size < parameters.length) {
      const fix = 'Give each :param its own name.';
      yield { path: `${at}/path`, rule: 'duplicate', message: 'names a parameter twice', fix };
    }
    const spec = Object.hasOwn(exports, target) ? exports[target] : undefined;
    if (spec === undefined) {
      const fix = `Name one of the exports: ${Object.keys(exports).slice(0, 10).join(', ')}.`;
      yield {
        path: `${at}/export`,
        rule: 'export',
        message: 'names no export of this manifest',
        fix,
      };
    } else yield* routeInput(spec.input, target, parameters, `${at}/path`);
  }
}

/** A route hands over an object with the path's parameters: the export's input must be able to take it. */
function* routeInput(
  input: JsonSchema | undefined,
  target: string,
  parameters: readonly string[],
  path: string,
): Generator<Finding> {
  if (input === undefined) return;
  const { type, properties, additionalProperties } = input;
  if (type !== undefined && ![type].flat().includes('object')) {
    const fix = 'Make the input of the export an object, or route to another export.';
    yield { path, rule: 'input', message: `leads to ${target}, which takes no object`, fix };
  }
  if (additionalProperties !== false || Object.hasOwn(input, 'allOf')) return;
  for (const name of parameters) {
    if (isSchema(properties) && Object.hasOwn(properties, name)) continue;
    const message = `has the parameter :${name}, which the input of ${target} does not take`;
    yield { path, rule: 'input', message, fix: `Add ${name} to the properties of that input.` };
  }
}

function* requests({ capabilities = [] }: Manifest): Generator<Finding> {
  const total = capabilities.reduce((sum, { resources }) => sum + resources.length, 0);
  if (total > MAX_RESOURCES) {
    const message = `names ${total} resources, over the ${MAX_RESOURCES} that all requests may together`;
    const fix = 'Use prefixes that end in *.';
    yield { path: '/capabilities', rule: 'bounded', message, fix };
  }
  const first = new Map<string, number>();
  for (const [i, { capability, operations, resources }] of capabilities.entries()) {
    const rights = operations.flatMap((operation) =>
      resources.map((resource) => `${operation} on ${resource}`),
    );
    for (const right of rights) {
      const twin = first.get(`${capability} ${right}`);
      if (twin === undefined) first.set(`${capability} ${right}`, i);
      else {
        const message = `asks for ${capability} ${right}, as /capabilities/${twin} does`;
        yield {
          path: `/capabilities/${i}`,
          rule: 'duplicate',
          message,
          fix: 'Ask for each right once.',
        };
      }
    }
  }
}

function* timeouts(manifest: Manifest): Generator<Finding> {
  const { timeoutMs } = effectiveLimits(manifest);
  for (const [name, spec] of Object.entries(manifest.exports)) {
    if ((spec.timeoutMs ?? 0) <= timeoutMs) continue;
    const message = `is longer than the plugin's limit of ${timeoutMs} ms`;
    const fix = 'Shorten it, or raise /limits/timeoutMs.';
    yield { path: `/exports/${name}/timeoutMs`, rule: 'limit', message, fix };
  }
}

function* schemas({ exports, config }: Manifest): Generator<Finding> {
  const budget = schemaBudget();
  for (const [name, { input, output }] of Object.entries(exports)) {
    for (const [part, schema] of Object.entries({ input, output })) {
      if (schema !== undefined)
        yield* checkSchema(schema, `/exports/${name}/${part}`, { secrets: false, budget });
    }
  }
  if (config === undefined) return;
  yield* checkSchema(config, '/config', { secrets: true, budget });
  if (config['type'] !== 'object') {
    const fix = 'Write "type": "object" with the settings as properties.';
    yield { path: '/config/type', rule: 'config', message: 'must be "object"', fix };
  }
}
