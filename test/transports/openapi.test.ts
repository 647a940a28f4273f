/** The OpenAPI document: what it says is what the host does, and tools of others can read it. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isSchema, type Manifest, parseManifest } from '@noa/sdk/host';
import t from 'tap';
import { TAGS } from '../../host/transports/contract.ts';
import { Conformance, type OpenApiDocument } from './conformance.ts';
import { type Exports, manifest, startFront } from './front.ts';
import { lint } from './lint.ts';

const ROOT = join(import.meta.dirname, '../..');

type Front = Awaited<ReturnType<typeof startFront>>;

async function read(front: Front): Promise<OpenApiDocument> {
  return (await front.request<OpenApiDocument>('GET', '/openapi.json', { token: null })).body;
}

/** All that a schema may do to the document: references, parts, names that clash, members of odd names. */
const tricky = manifest({
  name: 'tricky',
  description: 'Has *odd* schemas.',
  exports: {
    tree: {
      input: {
        $schema: 'https://json-schema.org/draft/2020-12/schema',
        type: 'object',
        properties: {
          id: { type: 'integer', description: 'Which one.' },
          node: { $ref: '#/$defs/node' },
          deep: { type: 'boolean' },
        },
        required: ['id', 'node'],
        additionalProperties: false,
        $defs: {
          node: {
            type: 'object',
            title: 'Plugin',
            properties: { next: { $ref: '#/$defs/node' }, 'a/b~c': { type: 'string' } },
          },
        },
      },
      output: { $ref: '#/$defs/any', $defs: { any: { type: ['object', 'null'] } } },
    },
    list: {
      input: {
        type: 'object',
        properties: { tag: { type: 'array', items: { type: 'string' } } },
        allOf: [
          { type: 'object', properties: { limit: { type: 'integer' } }, required: ['limit'] },
        ],
      },
      output: { type: 'array', items: { type: 'integer' } },
    },
    free: {},
    done: { output: { type: 'null' } },
  },
  contributes: {
    routes: [
      { method: 'PUT', path: '/trees/:id', export: 'tree' },
      { method: 'GET', path: '/trees/:tree', export: 'free' },
      { method: 'GET', path: '/trees/all', export: 'list' },
      { method: 'GET', path: '/', export: 'list' },
      { method: 'POST', path: '/a-b', export: 'free', status: 202 },
      { method: 'POST', path: '/a/b', export: 'free' },
      { method: 'DELETE', path: '/trees/:id', export: 'done', status: 204 },
    ],
  },
});

const answers: Exports = {
  tree: () => null,
  list: () => [1, 2],
  free: () => ({ any: 'thing' }),
  done: () => null,
};

await t.test('every route that is mounted says what it does', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  const { routes } = front.server;
  t.ok(routes.length > 30, 'the routes were collected');
  for (const { method, url, contract = {} } of routes) {
    const name = `${method} ${url}`;
    t.match(contract.summary, /^[A-Z][^.]{5,80}$/, `${name} has a summary of one line`);
    t.ok(contract.tag !== undefined && contract.tag in TAGS, `${name} has a tag`);
    const statuses = Object.keys(contract.answers ?? {}).map(Number);
    t.ok(
      statuses.some((status) => status < 400),
      `${name} describes its answers`,
    );
    t.notMatch(url, /\*/, `${name} is a path that OpenAPI can say`);
  }
});

await t.test('what asks for no credential says so, and nothing else does', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  for (const { method, url, contract } of front.server.routes) {
    const path = url.replaceAll(/:\w+/g, 'x');
    const { status, headers } = await front.request(method, path, { token: null });
    t.equal(status === 401, contract?.open !== true, `${method} ${url} answers ${status}`);
    if (status === 401) t.ok(headers.get('www-authenticate'));
  }
});

await t.test(
  'the document tells every path once, with an id of its own for each operation',
  async (t) => {
    const front = await startFront();
    t.teardown(() => front.close());
    await front.install(tricky, answers);
    const document = await read(front);
    t.match(document, {
      openapi: '3.1.0',
      info: { title: 'NOA', version: '9.9.9' },
      servers: [{ url: '/' }],
      components: {
        securitySchemes: { bearer: { scheme: 'bearer' }, apiKey: { name: 'x-api-key' } },
      },
    });
    const operations = Object.entries(document.paths).flatMap(([path, item]) =>
      Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
    );
    const ids = operations.map(({ operation }) => operation.operationId);
    t.equal(new Set(ids).size, ids.length, 'ids are unique');
    const shapes = Object.keys(document.paths).map((path) => path.replaceAll(/\{\w+\}/g, '{}'));
    t.equal(new Set(shapes).size, shapes.length, 'paths are not alike');
    for (const { path, operation } of operations) {
      const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const told = (operation.parameters ?? []).filter((each) => each.in === 'path');
      t.strictSame(
        told.map(({ name }) => name),
        named,
        `${path} tells its parameters`,
      );
      t.ok(operation.responses['400'] && operation.responses['500'], `${path} tells its errors`);
    }
    const mounted = front.server.routes.map(
      ({ method, url }) => `${method} ${url.replaceAll(/:(\w+)/g, '{$1}')}`,
    );
    const own = operations
      .filter(({ operation }) => operation['x-noa-plugin'] === undefined)
      .map(({ path, method }) => `${method.toUpperCase()} ${path}`);
    t.strictSame(own.sort(), mounted.sort(), 'all that is mounted, and nothing else');
    t.same(dangling(document), [], 'every reference leads somewhere');
  },
);

await t.test('routes of plugins are told while they serve, as they work', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  const before = await front.get('/openapi.json');
  await front.install(tricky, answers);
  const answer = await front.get<OpenApiDocument>('/openapi.json');
  const document = answer.body;

  const put = document.paths['/plugins/tricky/trees/{id}']?.['put'];
  t.match(put, {
    operationId: 'tricky_putPluginsTrickyTreesById',
    tags: ['Plugin tricky'],
    'x-noa-plugin': { name: 'tricky', version: '1.0.0', export: 'tree' },
    parameters: [
      { name: 'id', in: 'path', description: 'Which one.', schema: { type: 'integer' } },
    ],
    requestBody: {
      required: true,
      content: { 'application/json': { schema: { required: ['node'] } } },
    },
  });
  const body = put?.requestBody?.content['application/json']?.schema['properties'];
  t.strictSame(isSchema(body) && Object.keys(body), ['node', 'deep'], 'the path is no part of it');
  t.match(
    document.paths['/plugins/tricky/trees/{id}']?.['get']?.parameters,
    [{ name: 'id', in: 'path' }],
    'a path that differs in a name alone is the same path',
  );
  t.match(document.paths['/plugins/tricky']?.['get']?.parameters, [
    { name: 'tag', in: 'query', required: false, schema: { type: 'array' } },
    { name: 'limit', in: 'query', required: true, schema: { type: 'integer' } },
  ]);
  t.equal(document.paths['/plugins/tricky/trees/{id}']?.['delete']?.requestBody, undefined);

  const conformance = new Conformance(document);
  const json = { 'content-type': 'application/json' };
  for (const [method, path, status, text] of [
    ['PUT', '/plugins/tricky/trees/7', 200, '{"node":{"next":{}},"deep":true}'],
    ['PUT', '/plugins/tricky/trees/7', 400, '{"node":{},"id":"x","more":1}'],
    ['PUT', '/plugins/tricky/trees/7', 415, undefined],
    ['GET', '/plugins/tricky?limit=3&tag=a&tag=b', 200, undefined],
    ['GET', '/plugins/tricky', 400, undefined],
    ['GET', '/plugins/tricky/trees/all?limit=1', 200, undefined],
    ['POST', '/plugins/tricky/a-b', 202, '{}'],
    ['DELETE', '/plugins/tricky/trees/7', 204, undefined],
  ] as const) {
    const sent = text ?? (status === 415 ? '<a/>' : undefined);
    const headers = text === undefined ? { 'content-type': 'text/xml' } : json;
    const init = sent === undefined ? {} : { body: sent, headers };
    const given = await front.request(method, path, init);
    t.equal(given.status, status, `${method} ${path}`);
    t.ok(conformance.operation(method, path), `${method} ${path} is told`);
    t.equal(conformance.fault(method, path, given), undefined);
  }

  const etag = answer.headers.get('etag') ?? '';
  t.not(etag, before.headers.get('etag'), 'another document has another tag');
  const same = await front.request('GET', '/openapi.json', { headers: { 'if-none-match': etag } });
  t.strictSame([same.status, same.text], [304, '']);
  await front.post('/v1/plugins/tricky/disable');
  const without = await read(front);
  t.notMatch(JSON.stringify(without), /tricky/, 'one that does not serve is not told');
});

await t.test('the operator may ask for a credential', async (t) => {
  const front = await startFront({ guardReference: true });
  t.teardown(() => front.close());
  t.equal((await front.request('GET', '/openapi.json', { token: null })).status, 401);
  t.match(await front.get('/openapi.json'), { status: 200, body: { openapi: '3.1.0' } });
});

await t.test(
  'every answer has the ids of its request, also where no route was reached',
  async (t) => {
    const front = await startFront();
    t.teardown(() => front.close());
    const head = 'Host: x\r\nConnection: close\r\n';
    const trace = 'a'.repeat(32);
    const given = `X-Request-Id: mine-7\r\nTraceparent: 00-${trace}-${'b'.repeat(16)}-01\r\n`;
    for (const [request, status] of [
      [`GET /health HTTP/1.1\r\n${head}${given}\r\n`, 200],
      [`GET /docs HTTP/1.1\r\n${head}${given}\r\n`, 200],
      [`GET /v1/plugins HTTP/1.1\r\n${head}${given}\r\n`, 401],
      [`GET /nowhere HTTP/1.1\r\n${head}${given}\r\n`, 401],
      [`GET /%zz HTTP/1.1\r\n${head}${given}\r\n`, 400],
      [`DELETE /health HTTP/1.1\r\n${head}${given}\r\n`, 405],
      [`GET /health HTTP/1.1\r\nConnection: close\r\n${given}\r\n`, 400],
    ] as const) {
      const answer = await front.raw(request);
      t.match(answer, new RegExp(`^HTTP/1.1 ${status} `), request);
      t.match(answer, /^x-request-id: mine-7\r$/im);
      t.match(answer, new RegExp(`^traceparent: 00-${trace}-[0-9a-f]{16}-`, 'im'));
      if (status >= 400) t.match(answer, new RegExp(`"traceId":"${trace}"`));
    }
    for (const request of [
      'no request\r\n\r\n',
      `GET / HTTP/1.1\r\nX: ${'x'.repeat(64 << 10)}\r\n`,
    ]) {
      const answer = await front.raw(request);
      t.match(answer, /^HTTP\/1.1 4\d\d /);
      t.match(answer, /^x-request-id: [0-9a-f]{16}\r$/im);
      const [, made] = /^traceparent: 00-([0-9a-f]{32})-/im.exec(answer) ?? [];
      t.match(answer, new RegExp(`"traceId":"${made}"`));
    }
  },
);

await t.test(
  'two linters of others find nothing in the document of the example plugins',
  async (t) => {
    const front = await startFront();
    t.teardown(() => front.close());
    const examples = globSync('plugins/examples/*/plugin.json', { cwd: ROOT });
    t.ok(examples.length >= 5, 'the examples were found');
    for (const file of examples) await front.install(bare(join(ROOT, file)), {});
    await front.install(tricky, answers);
    const document = await read(front);
    t.ok(document.paths['/plugins/notes/notes/{id}'], 'with their routes');

    t.strictSame(await lint(document), []);
    const { info: _, ...broken } = document as OpenApiDocument & { info: object };
    t.match((await lint(broken)).join('\n'), /redocly [\s\S]*spectral /, 'both see a fault');
  },
);

/** What an example offers, without what it needs of others: this front's kernel has no such capabilities. */
function bare(file: string): Manifest {
  const { name, version, description, runtime, exports, contributes } = parseManifest(
    readFileSync(file, 'utf8'),
  );
  return {
    name,
    version,
    runtime,
    exports,
    ...(description === undefined ? {} : { description }),
    contributes: { routes: contributes?.routes ?? [] },
  };
}

/** References into the document that lead nowhere. */
function dangling(document: OpenApiDocument): string[] {
  const missing: string[] = [];
  const visit = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    for (const [key, part] of Object.entries(value)) {
      if (key !== '$ref' || typeof part !== 'string') visit(part);
      else if (!leads(document, part)) missing.push(part);
    }
  };
  visit(document);
  return missing;
}

function leads(document: object, reference: string): boolean {
  let at: unknown = document;
  for (const token of reference.replace(/^#\//, '').split('/')) {
    const key = token.replaceAll('~1', '/').replaceAll('~0', '~');
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, key)) return false;
    at = (at as { [key: string]: unknown })[key];
  }
  return true;
}
