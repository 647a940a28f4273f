/** Lists in pages: each item once whatever happens between two requests, in the API and on the command line. */
import { tmpdir } from 'node:os';
import fc from 'fast-check';
import t from 'tap';
import type { Grant } from '../../host/kernel/grants.ts';
import { pageOf } from '../../host/transports/paging.ts';
import { noa } from '../cli/noa.ts';
import { ADMIN, manifest, startFront } from './front.ts';

type Page = { readonly next: string | null } & { readonly [member: string]: unknown };

await t.test(
  'pages one after the other are the list, and what stays in it comes exactly once',
  (t) => {
    const names = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 6, unit: 'binary' }), {
      maxLength: 30,
    });
    const order = fc.constantFrom('rising' as const, 'falling' as const);
    const step = fc.integer({ min: 1, max: 9 });
    const property = fc.property(names, names, order, step, (kept, others, direction, limit) => {
      const stays = new Set(kept);
      const comeAndGo = others.filter((name) => !stays.has(name));
      const seen: string[] = [];
      let cursor: string | undefined;
      for (let round = 0; ; round += 1) {
        const present = comeAndGo.filter((_name, index) => (index + round) % 2 === 0);
        const query = cursor === undefined ? { limit } : { limit, cursor };
        const page = pageOf([...present, ...kept], (name) => name, query, direction);
        if (page.items.length > limit) return false;
        seen.push(...page.items);
        if (page.next === null) break;
        cursor = page.next;
      }
      const sign = direction === 'rising' ? 1 : -1;
      const inOrder = seen.every((name, index) => {
        const before = seen[index - 1];
        return before === undefined || (before < name ? 1 : -1) === sign;
      });
      return inOrder && kept.every((name) => seen.includes(name));
    });
    const examples: [string[], string[], 'rising', number][] = [[['\0'], ['\u0001'], 'rising', 1]];
    t.doesNotThrow(() => fc.assert(property, { numRuns: 300, examples }));
    t.end();
  },
);

await t.test('every list that can grow comes in pages', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  for (const name of ['alpha', 'beta', 'gamma', 'delta', 'epsilon']) {
    await front.install(
      manifest({
        name,
        exports: { run: {} },
        capabilities: [
          {
            capability: 'store',
            operations: ['get'],
            resources: ['a'],
            optional: true,
            reason: 'x',
          },
        ],
      }),
      { run: () => null },
    );
    const headers = { 'content-type': 'application/json' };
    await front.request('PUT', `/v1/secrets/${name}`, { body: '{"value":"v"}', headers });
    await front.post('/v1/tokens/rotate');
  }
  for (const [path, member, key] of [
    ['/v1/plugins', 'plugins', 'name'],
    ['/v1/grants', 'grants', 'id'],
    ['/v1/secrets', 'secrets', 'name'],
    ['/v1/tokens/keys', 'keys', 'kid'],
    ['/v1/audit', 'records', 'hash'],
  ] as const) {
    const read = async (query: string) => {
      const { status, body } = await front.get<Page>(`${path}?${query}`);
      t.equal(status, 200, `${path}?${query}`);
      const items = body[member] as { [name: string]: unknown }[];
      return { keys: items.map((item) => item[key]), next: body.next };
    };
    const whole = await read('limit=1000');
    t.ok(whole.keys.length >= 5, `${path} has items`);
    t.equal(whole.next, null);
    const paged: unknown[] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const page = await read(`limit=2${cursor === '' ? '' : `&cursor=${cursor}`}`);
      t.ok(page.keys.length <= 2);
      paged.push(...page.keys);
      cursor = page.next;
    }
    t.strictSame(paged, whole.keys, `${path}: the pages are the list`);
    for (const query of ['limit=0', 'limit=1001', 'limit=x', 'cursor=%21', 'cursor=']) {
      t.match(await front.get(`${path}?${query}`), {
        status: 400,
        body: { code: 'INVALID_ARGUMENT' },
      });
    }
  }
  const { body } = await front.get<{ grants: Grant[] }>('/v1/grants?plugin=beta&limit=1');
  t.match(body.grants, [{ plugin: 'beta' }], 'a filter counts before the page');
});

await t.test('the command line follows the pages', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(manifest({ name: 'many', exports: { run: {} } }), { run: () => null });
  const grant = { plugin: 'many', capability: 'store', operations: ['get'] };
  for (let number = 0; number < 120; number += 1) {
    await front.kernel.administration.addGrant({ ...grant, resources: [`r${number}`] }, 'test');
  }
  const env = { NOA_URL: front.url, NOA_TOKEN: ADMIN };
  const { stdout, code } = await noa(['grant', 'list', 'many', '--json'], { cwd: tmpdir(), env });
  t.equal(code, 0);
  const grants = JSON.parse(stdout) as Grant[];
  t.equal(new Set(grants.map(({ id }) => id)).size, 120);
});
