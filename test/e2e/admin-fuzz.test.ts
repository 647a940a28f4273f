/** Whatever an administrator's client sends, the host answers it and takes no harm: never a 500. */
import { request } from 'node:http';
import fc from 'fast-check';
import t from 'tap';
import { RunningHost } from './running-host.ts';

const host = await RunningHost.start();
t.teardown(() => host.dispose());

interface Reply {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

/** Sends the path as it is written: `fetch` would mend it first. */
function send(
  method: string,
  path: string,
  body?: string | Buffer,
  type = 'application/json',
): Promise<Reply> {
  const { hostname, port } = new URL(host.url);
  const headers = {
    authorization: `Bearer ${host.token}`,
    ...(body === undefined ? {} : { 'content-type': type }),
  };
  return new Promise((resolve, reject) => {
    const sent = request({ hostname, port, method, path, headers, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => {
        const { statusCode: status = 0, headers: got } = response;
        resolve({ status, type: got['content-type'] ?? '', text });
      });
    });
    sent.on('error', reject).end(body);
  });
}

t.test('what is no cursor, name or id is a 400 that says so', async (t) => {
  for (const [method, path] of [
    ['GET', '/v1/audit?cursor=abc'],
    ['GET', '/v1/audit?cursor=-1'],
    ['GET', '/v1/audit?cursor=1e3'],
    ['GET', '/v1/audit?cursor=99999999999999999999999'],
    ['GET', '/v1/audit?plugin=a%00b'],
    ['GET', '/v1/grants?plugin=a%00b'],
    ['GET', '/v1/plugins/a%00b'],
    ['PUT', '/v1/plugins/a%00b'],
    ['DELETE', '/v1/plugins/a%00b'],
    ['POST', '/v1/plugins/a%00b/enable'],
    ['POST', '/v1/plugins/a%00b/disable'],
    ['POST', '/v1/plugins/a%00b/rollback'],
    ['GET', '/v1/plugins/a%00b/logs'],
    ['GET', '/v1/grants/a%00b'],
    ['DELETE', '/v1/grants/a%00b'],
    ['POST', '/v1/grants/a%00b/approve'],
    ['DELETE', '/v1/grants/%E2%80%AE'],
    ['DELETE', '/v1/secrets/a%00b'],
  ] as const) {
    const bundle = method === 'PUT' ? Buffer.from('x') : undefined;
    const { status, text } = await send(method, path, bundle, 'application/gzip');
    t.equal(status, 400, `${method} ${path}`);
    t.match(text, /INVALID_ARGUMENT/);
  }
  const grant = { plugin: 'a', capability: 'db', operations: ['query'], resources: ['a.*'] };
  for (const wrong of [
    { plugin: 'a\0' },
    { capability: 'd\0b' },
    { operations: ['que\0ry'] },
    { resources: ['a\0.*'] },
    { reason: 'a\0' },
    { reason: '\u202etxt' },
  ]) {
    const answer = await send('POST', '/v1/grants', JSON.stringify({ ...grant, ...wrong }));
    t.match(answer, { status: 400, text: /INVALID_ARGUMENT/ }, JSON.stringify(wrong));
  }
});

t.test('JSON is UTF-8 and says nothing else of itself', async (t) => {
  const body = JSON.stringify({ value: 'x' });
  for (const [charset, status] of [
    ['; charset=utf-8', 200],
    ['; charset="UTF-8"', 200],
    [';charset=utf8', 415],
    ['; charset=utf-16', 415],
    ['; charset=iso-8859-1', 415],
    ['; q=1; charset=utf-16le', 415],
    ['; charset=utf-8; charset=utf-16', 415],
  ] as const) {
    const answer = await send('PUT', '/v1/secrets/fuzz', body, `application/json${charset}`);
    t.equal(answer.status, status, charset);
  }
});

t.test('any request to any administrative path is answered, and none with a 500', async (t) => {
  const odd = fc.constantFrom(
    '%00',
    '%',
    '%E2%80%AE',
    '%ff',
    'fuzz',
    '..',
    'a'.repeat(70),
    '1e9',
    '-1',
    '__proto__',
    'constructor',
    '%2F',
  );
  const segment = fc.oneof(
    odd,
    fc.string({ maxLength: 12 }).map((text) => encodeURIComponent(text.toWellFormed())),
  );
  const path = fc
    .tuple(
      fc.constantFrom('plugins', 'grants', 'secrets', 'audit', 'routes', 'openapi.json'),
      fc.option(segment, { nil: undefined }),
      fc.constantFrom('', '/enable', '/disable', '/rollback', '/logs', '/approve', '/verify'),
    )
    .map(([kind, name, verb]) => `/v1/${kind}${name === undefined ? '' : `/${name}`}${verb}`);
  const names = fc.constantFrom('plugin', 'cursor', 'limit', 'since', 'data', 'x', '__proto__');
  const query = fc
    .array(fc.tuple(names, segment), { maxLength: 3 })
    .map((pairs) => pairs.map(([name, value]) => `${name}=${value}`).join('&'));
  const part = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 20 }),
    fc.constantFrom('db', 'cache', 'query', 'a.*', 'fuzz\0', '\ud800', '\u202e'),
    fc.integer(),
    fc.array(fc.string({ unit: 'binary', maxLength: 8 }), { maxLength: 3 }),
    fc.jsonValue({ maxDepth: 2 }),
  );
  const members = ['plugin', 'capability', 'operations', 'resources', 'reason', 'value', 'x'];
  const body = fc.oneof(
    fc.dictionary(fc.constantFrom(...members), part).map((value) => JSON.stringify(value)),
    fc.json(),
    fc.string({ unit: 'binary', maxLength: 30 }),
    fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes)),
  );
  const type = fc.constantFrom(
    'application/json',
    'application/json; charset=utf-8',
    'application/json; charset=utf-16',
    'application/gzip',
    'text/plain',
    'x',
  );
  const method = fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'PATCH');
  await fc.assert(
    fc.asyncProperty(
      method,
      path,
      query,
      fc.option(body, { nil: undefined }),
      type,
      async (m, p, q, b, c) => {
        const answer = await send(m, q === '' ? p : `${p}?${q}`, b, c);
        if (answer.status < 400) return;
        const { status, code } = JSON.parse(answer.text) as { status: number; code: string };
        if (answer.status >= 500 || !answer.type.startsWith('application/problem+json')) {
          throw new Error(`${answer.status} ${answer.type} ${answer.text}`);
        }
        if (status !== answer.status || typeof code !== 'string') throw new Error(answer.text);
      },
    ),
    { numRuns: 1500 },
  );
  t.equal((await send('GET', '/health')).status, 200);
});
