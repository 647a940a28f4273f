/**
 * The routes that a plugin contributes, as operations: from the schemas of its exports, which are those
 * that judge its calls.
 */
import { STATUS_CODES } from 'node:http';
import {
  type ExportSpec,
  isSchema,
  type JsonSchema,
  type Manifest,
  type RouteSpec,
} from '@noa/sdk/host';
import { DIALECT_ERRORS } from '../dialect.ts';
import { CALL_ERRORS } from '../plugins.ts';
import { urlOf } from '../route-table.ts';
import { commonErrors, headersOf, problemsOf } from './answers.ts';
import { keyOf } from './keys.ts';
import { namesIn, type Node, type Operation, type Parameter, parameter } from './paths.ts';
import type { Schemas } from './schemas.ts';

export function* pluginOperations(manifest: Manifest, schemas: Schemas): Generator<Operation> {
  const { name, version, contributes, exports } = manifest;
  for (const route of contributes?.routes ?? []) {
    const spec: ExportSpec = exports[route.export] ?? {};
    const inPath = new Set(namesIn(route.path));
    const request = requestOf(name, route, spec, inPath, schemas);
    yield {
      prefix: `${name}_`,
      method: route.method,
      url: urlOf(manifest, route).replace(/(?<=.)\/$/, ''),
      path: request.path,
      parameters: [...request.parameters, ...keyOf(route.method)],
      rest: {
        tags: [tagOf(name)],
        summary: route.summary ?? `Call ${route.export} of ${name}`,
        description: `Answered by the export \`${route.export}\` of the plugin ${name} ${version}.`,
        ...(request.body === undefined ? {} : { requestBody: request.body }),
        responses: {
          ...answer(name, route, spec, schemas),
          ...errorsOf(route, schemas),
        },
        'x-noa-plugin': { name, version, export: route.export },
      },
    };
  }
}

/** The errors of a route, in the form of its dialect. */
function errorsOf({ method, dialect }: RouteSpec, schemas: Schemas): Node {
  const problems = problemsOf([...commonErrors(method), ...CALL_ERRORS]);
  if (dialect === undefined) return problems;
  const content = { 'application/json': { schema: schemas.place(DIALECT_ERRORS[dialect]) } };
  const entries = Object.keys(problems).map((status) => {
    const description = `${STATUS_CODES[status] ?? 'It failed'}.`;
    return [status, { description, headers: headersOf(Number(status)), content }];
  });
  return Object.fromEntries(entries) as Node;
}

export function tagOf(plugin: string): string {
  return `Plugin ${plugin}`;
}

interface Request {
  readonly path: { readonly [name: string]: JsonSchema };
  readonly parameters: readonly Parameter[];
  readonly body: Node | undefined;
}

/** The input of the export, apart into what stands in the path, in the query and in the body. */
function requestOf(
  plugin: string,
  route: RouteSpec,
  { input }: ExportSpec,
  inPath: ReadonlySet<string>,
  schemas: Schemas,
): Request {
  const name = `${plugin}.${route.export}.input`;
  const whole = schemas.adopt(name, input ?? {});
  const members = membersOf(whole, schemas);
  const path: { [name: string]: JsonSchema } = {};
  for (const one of inPath) path[one] = members.get(one)?.schema ?? { type: 'string' };
  const others = [...members].filter(([one]) => !inPath.has(one));
  if (route.method === 'GET' || route.method === 'DELETE') {
    const parameters = others.map(([one, { schema, required }]) =>
      parameter(one, 'query', required, schema),
    );
    return { path, parameters, body: undefined };
  }
  if (inPath.size > 0 && others.length === 0 && isClosed(whole)) {
    return { path, parameters: [], body: undefined };
  }
  const apart = new Set([...inPath, ...(route.takes === undefined ? [] : ['content'])]);
  const schema = apart.size === 0 ? schemas.reference(name) : without(whole, apart);
  const required = others.some(([, member]) => member.required);
  const content: { [type: string]: Node } = { 'application/json': { schema } };
  for (const type of route.takes ?? []) {
    content[type] = { schema: { type: 'string', format: 'binary' } };
  }
  return { path, parameters: [], body: { required, content } };
}

const STREAM: JsonSchema = {
  type: 'string',
  description: 'Of a request with `stream: true`: a frame for each part of the answer.',
};

function answer(plugin: string, route: RouteSpec, { output }: ExportSpec, schemas: Schemas): Node {
  const { status = 200 } = route;
  const name = `${plugin}.${route.export}.output`;
  schemas.adopt(name, output ?? {});
  const content = {
    'application/json': { schema: schemas.reference(name) },
    ...(route.streams === undefined ? {} : { 'text/event-stream': { schema: STREAM } }),
  };
  const headers = headersOf(status);
  const empty = status === 204 || status === 205;
  return {
    [status]: empty
      ? { description: 'Done; there is no body.', headers }
      : { description: `The output of \`${route.export}\`.`, headers, content },
  };
}

interface Member {
  readonly schema: JsonSchema;
  /** Whatever else the value is. */
  readonly required: boolean;
}

/** The members that an object may have, from all parts of a placed schema that judge it. */
function membersOf(whole: JsonSchema, schemas: Schemas): Map<string, Member> {
  const found = new Map<string, Member>();
  const visited = new Set<unknown>();
  const visit = (schema: unknown, always: boolean): void => {
    if (!isSchema(schema) || visited.has(schema)) return;
    visited.add(schema);
    const required = Array.isArray(schema['required']) ? schema['required'] : [];
    const properties = isSchema(schema['properties']) ? schema['properties'] : {};
    for (const [name, property] of Object.entries(properties)) {
      const must = (always && required.includes(name)) || found.get(name)?.required === true;
      found.set(name, { schema: isSchema(property) ? property : {}, required: must });
    }
    visit(schemas.at(schema['$ref']), always);
    for (const keyword of ['allOf', 'anyOf', 'oneOf']) {
      const parts = schema[keyword];
      if (!Array.isArray(parts)) continue;
      for (const part of parts) visit(part, always && keyword === 'allOf');
    }
  };
  visit(whole, true);
  return found;
}

function isClosed({ additionalProperties }: JsonSchema): boolean {
  return additionalProperties === false;
}

/** The schema of an object without the members that stand elsewhere. */
function without(schema: JsonSchema, names: ReadonlySet<string>): JsonSchema {
  const { properties, required, ...rest } = schema;
  const kept = isSchema(properties) ? Object.entries(properties) : [];
  return {
    ...rest,
    ...(properties === undefined
      ? {}
      : { properties: Object.fromEntries(kept.filter(([name]) => !names.has(name))) }),
    ...(Array.isArray(required)
      ? { required: required.filter((name) => !names.has(String(name))) }
      : {}),
  };
}
