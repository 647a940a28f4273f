/**
 * The API in machine form: OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0.html) of everything mounted.
 * Invariant: it is made from the routes themselves and from the manifests of the plugins that serve, with
 * the schemas that judge their requests, so it cannot say what the host does not do.
 */
import { STATUS_CODES } from 'node:http';
import { isSchema, type JsonSchema, type Manifest } from '@noa/sdk/host';
import { type Contract, type MountedRoute, TAGS } from '../contract.ts';
import {
  commonErrors,
  HEADERS,
  headersOf,
  PROBLEM_RESPONSES,
  PROBLEM_SCHEMA,
  problemsOf,
} from './answers.ts';
import { keyOf } from './keys.ts';
import { namesIn, type Node, type Parameter, parameter, Paths } from './paths.ts';
import { pluginOperations, tagOf } from './plugin-routes.ts';
import { Schemas } from './schemas.ts';
import { Security } from './security.ts';

const DESCRIPTION = `The REST interface of a NOA host, with the routes of the plugins that serve here.

* **Credentials**: \`Authorization: Bearer …\` or \`x-api-key\`; an operation that needs a scope names it.
* **Bodies** are JSON unless an operation says otherwise; members and parameters that are not described are refused.
* **Errors** are problem documents (RFC 9457) with a stable \`code\`.
* **Lists** come in pages: \`limit\` at a time, the next one with \`cursor\` set to the \`next\` of the one before.
* **Tracing**: \`x-request-id\` and \`traceparent\` are taken from a request when they are well formed, and are on every answer.`;

export interface Subject {
  readonly version: string;
  readonly routes: readonly MountedRoute[];
  /** Of the plugins that serve. */
  readonly manifests: readonly Manifest[];
}

export function openApi({ version, routes, manifests }: Subject): Node {
  const schemas = new Schemas();
  const security = new Security(routes);
  const paths = new Paths();
  const tags = new Set<string>();
  for (const route of routes) {
    const { tag } = route.contract ?? {};
    if (tag !== undefined) tags.add(tag);
    const path = route.contract?.path ?? {};
    const keys = route.contract?.open ? [] : keyOf(route.method);
    const parameters = [...queryOf(route, schemas), ...keys];
    const rest = { ...operation(route, schemas), ...security.of(route.contract ?? {}) };
    paths.add({ prefix: '', method: route.method, url: route.url, path, parameters, rest });
  }
  const ordered: Node[] = Object.entries(TAGS)
    .filter(([name]) => tags.has(name))
    .map(([name, description]) => ({ name, description }));
  for (const manifest of manifests) {
    const operations = [...pluginOperations(manifest, schemas)];
    for (const each of operations) paths.add(each);
    if (operations.length === 0) continue;
    const { name, description = `Routes of the plugin ${name}.` } = manifest;
    ordered.push({ name: tagOf(name), description });
  }
  const problem = schemas.place(PROBLEM_SCHEMA);
  const served = paths.toJson();
  return {
    openapi: '3.1.0',
    info: {
      title: 'NOA',
      version,
      description: DESCRIPTION,
      contact: { name: 'NOA contributors' },
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/', description: 'This host.' }],
    security: security.common,
    tags: ordered,
    paths: served,
    components: {
      securitySchemes: security.schemes,
      headers: HEADERS,
      responses: used(served, PROBLEM_RESPONSES),
      schemas: schemas.referred([served, problem]),
    },
  };
}

function operation(route: MountedRoute, schemas: Schemas): Node {
  const { contract = {}, url } = route;
  const { tag, summary, open, answers = {}, errors = [] } = contract;
  const requestBody = bodyOf(route, schemas);
  const problems = problemsOf([
    ...commonErrors(route.method, open),
    ...(namesIn(url).length > 0 ? (['NOT_FOUND'] as const) : []),
    ...errors,
  ]);
  const given = Object.entries(answers).map(([status, schema]) => [
    status,
    response(Number(status), schema, contract, schemas),
  ]);
  return {
    ...(tag === undefined ? {} : { tags: [tag] }),
    ...(summary === undefined ? {} : { summary }),
    description: words(contract),
    ...(requestBody === undefined ? {} : { requestBody }),
    responses: { ...problems, ...Object.fromEntries(given) },
  };
}

function words({ summary = '', description = `${summary}.`, scope, open }: Contract): string {
  if (open) return `${description} Asks for no credential.`;
  return scope === undefined ? description : `${description} Needs the scope \`${scope}\`.`;
}

function response(
  status: number,
  schema: JsonSchema | null,
  { mediaType = 'application/json', frames, open }: Contract,
  schemas: Schemas,
): Node {
  const headers = headersOf(status, open, status === 201);
  const description = `${STATUS_CODES[status] ?? 'Done'}.`;
  if (schema === null) return { description, headers };
  const stream = { 'text/event-stream': { schema: { type: 'string', description: frames } } };
  const content = {
    [mediaType]: { schema: schemas.place(schema) },
    ...(status === 200 && frames !== undefined ? stream : {}),
  };
  return { description, headers, content };
}

function queryOf({ query }: MountedRoute, schemas: Schemas): Parameter[] {
  const { properties, required } = query ?? {};
  const names = Array.isArray(required) ? required : [];
  return Object.entries(isSchema(properties) ? properties : {}).map(([name, schema]) =>
    parameter(name, 'query', names.includes(name), schemas.place(schema as JsonSchema)),
  );
}

const FORM = 'application/x-www-form-urlencoded';

function bodyOf(
  { body, takes, method, contract }: MountedRoute,
  schemas: Schemas,
): Node | undefined {
  if (takes !== 'application/json') {
    const bytes = { type: 'string', format: 'binary' };
    return { required: true, content: { [takes]: { schema: bytes } } };
  }
  if (body === undefined || method === 'GET' || isEmpty(body)) return undefined;
  // A body may be left out where its schema takes null.
  const { type } = body;
  const kinds: unknown[] = Array.isArray(type) ? type : [];
  const optional = type === undefined || kinds.includes('null');
  const others = kinds.filter((each) => each !== 'null');
  const schema = others.length === 1 ? { ...body, type: others[0] } : body;
  const types = ['application/json', ...(contract?.forms ? [FORM] : [])];
  const media = { schema: schemas.place(schema) };
  return { required: !optional, content: Object.fromEntries(types.map((type) => [type, media])) };
}

/** Nothing fits but an empty object, and nothing at all. */
function isEmpty({ properties, additionalProperties }: JsonSchema): boolean {
  return (
    additionalProperties === false && isSchema(properties) && Object.keys(properties).length === 0
  );
}

/** Those responses that paths refer to. */
function used(paths: Node, responses: Node): Node {
  const text = JSON.stringify(paths);
  return Object.fromEntries(
    Object.entries(responses).filter(([name]) => text.includes(`"#/components/responses/${name}"`)),
  );
}
