/** `secrets` on a real PostgreSQL: sealed at rest, opened by name only, refused when anything is wrong. */
import { randomBytes } from 'node:crypto';
import type { Driver, Json } from '@noa/sdk/host';
import { Pool } from 'pg';
import t from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { secrets as capability } from '../../capabilities/secrets/capability.ts';
import { createSecretsDriver } from '../../capabilities/secrets/host.ts';
import { Audit } from '../../host/kernel/audit.ts';
import { Seal } from '../../host/kernel/seal.ts';
import { MAX_SECRET_BYTES, Secrets } from '../../host/kernel/secrets.ts';
import type { StoreTx } from '../../host/kernel/store.ts';
import { runMigrations } from '../../host/store/migrate.ts';
import { PostgresStore } from '../../host/store/postgres.ts';
import { failure, testDatabase } from './database.ts';

const database = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
await runMigrations(connectionConfig(database.url), 'up');
const pool = new Pool(connectionConfig(database.url));
// A server that ends says so to connections that are closing.
pool.on('error', () => undefined);
// The server's end may reach a connection that is on its way out.
pool.on('error', () => undefined);
t.teardown(async () => {
  await pool.end();
  await database.stop();
});
const store = new PostgresStore(pool);
const ROOT_KEY = randomBytes(32);
const VALUE = 'correct horse battery staple';

/** One host's secrets; `follow` reads the revision, as a host does once a second. */
async function host(chain: string, rootKey: Uint8Array = ROOT_KEY) {
  let revision = await store.revision();
  const audit = new Audit<StoreTx>({
    chain,
    sink: store,
    now: Date.now,
    flushMs: 10,
    capacity: 100,
    onError: (error) => t.fail(String(error)),
  });
  const seal = new Seal(rootKey);
  const options = { store, audit, seal, revision: () => revision, now: Date.now };
  const secrets = new Secrets(options);
  return {
    secrets,
    driver: createSecretsDriver((name) => secrets.read(name)),
    follow: async () => (revision = await store.revision()),
  };
}

function read(driver: Driver, name: Json): Promise<unknown> {
  const signal = AbortSignal.timeout(5000);
  const frame = { plugin: 'notes', resources: ['*'], signal, deadline: Infinity, chain: undefined };
  return driver.invoke('read', { name }, frame);
}

async function everything(): Promise<string> {
  const tables = await pool.query<{ name: string }>(
    `select 'noa.' || tablename as name from pg_tables where schemaname = 'noa'`,
  );
  const texts = tables.rows.map(async ({ name }) => {
    const { rows } = await pool.query<{ text: string }>(`select x::text as text from ${name} x`);
    return rows.map(({ text }) => text).join('\n');
  });
  return (await Promise.all(texts)).join('\n');
}

t.test('a value comes back as it was, and replaced, and not after its removal', async (t) => {
  const { secrets, driver } = await host('a');
  const made = await secrets.set('mail.password', VALUE, 'root');
  t.same(await read(driver, 'mail.password'), { value: VALUE });
  const values = ['x', 'grüße\u0000\n世界 ', '"\'\\', 'y'.repeat(MAX_SECRET_BYTES)];
  for (const value of values) {
    const { createdAt } = await secrets.set('mail.password', value, 'root');
    t.equal(createdAt, made.createdAt);
    t.same(await read(driver, 'mail.password'), { value });
  }
  await secrets.set('a-b_c.9', 'z', 'root');
  const list = await secrets.list();
  t.strictSame(
    list.map((view) => Object.keys(view)),
    Array(2).fill(['name', 'createdAt', 'updatedAt']),
  );
  t.strictSame(
    list.map(({ name }) => name),
    ['a-b_c.9', 'mail.password'],
  );
  await secrets.remove('mail.password', 'root');
  const gone = await failure(read(driver, 'mail.password'));
  t.match(gone, { code: 'NOT_FOUND', message: /noa secret set mail\.password/ });
  t.match(await failure(secrets.remove('mail.password', 'root')), { code: 'NOT_FOUND' });
  t.same(await secrets.read('constructor'), undefined);
});

t.test('names and values that break a rule are refused without being shown', async (t) => {
  const { secrets } = await host('b');
  for (const name of [
    '',
    'A',
    '1a',
    'a b',
    'a/b',
    '../a',
    'a*',
    'a\n',
    `a${'b'.repeat(64)}`,
    '__proto__',
  ]) {
    const error = await failure(secrets.set(name, VALUE, 'root'));
    t.equal(error.code, 'INVALID_ARGUMENT', JSON.stringify(name));
    t.throws(() => capability.normalizeResource(name), { code: 'INVALID_ARGUMENT' });
  }
  t.throws(() => capability.normalizeResource('*'), { code: 'INVALID_ARGUMENT' }, 'no prefix');
  t.throws(() => capability.normalizeResource('mail.*'), { code: 'INVALID_ARGUMENT' }, 'no prefix');
  t.equal(capability.normalizeResource('mail.password'), 'mail.password');
  const over = 'é'.repeat(MAX_SECRET_BYTES / 2) + VALUE;
  for (const [value, code] of [
    ['', 'INVALID_ARGUMENT'],
    [`${VALUE}\ud800`, 'INVALID_ARGUMENT'],
    [over, 'PAYLOAD_TOO_LARGE'],
  ] as const) {
    const error = await failure(secrets.set('a', value, 'root'));
    t.equal(error.code, code);
    t.notMatch(JSON.stringify(error.toBody()), VALUE);
  }
});

t.test('at rest there is only ciphertext, never the same twice', async (t) => {
  const { secrets } = await host('c');
  await secrets.set('one', VALUE, 'root');
  await secrets.set('two', VALUE, 'root');
  const sealed = async () => {
    const { rows } = await pool.query<{ sealed: Buffer; nonce: Buffer }>(
      `select sealed, nonce from noa.secrets where name in ('one', 'two') order by name`,
    );
    return rows.flatMap((row) => [row.sealed.toString('hex'), row.nonce.toString('hex')]);
  };
  const first = await sealed();
  await secrets.set('one', VALUE, 'root');
  t.equal(new Set([...first, ...(await sealed())]).size, 6, 'nonces are never used again');
  const all = await everything();
  t.match(all, /secret\.set/, 'the audit is in what was searched');
  for (const encoding of ['utf8', 'hex', 'base64', 'base64url'] as const) {
    t.notOk(all.includes(Buffer.from(VALUE).toString(encoding)), encoding);
  }
  for (const encoding of ['hex', 'base64', 'base64url'] as const) {
    t.notOk(all.includes(ROOT_KEY.toString(encoding)), `root key in ${encoding}`);
  }
});

t.test('a change is recorded with its name and actor in the same transaction', async (t) => {
  const { secrets } = await host('recorded');
  await secrets.set('r', VALUE, 'alice');
  await secrets.set('r', VALUE, 'bob');
  await secrets.remove('r', 'carol');
  const { records } = await store.auditPage({ limit: 100 });
  const own = records.filter(({ chain }) => chain === 'recorded').toReversed();
  const common = { capability: 'secrets', resources: ['r'], outcome: 'ok' };
  t.match(own, [
    { ...common, kind: 'secret.set', actor: 'alice', details: { version: 1 } },
    { ...common, kind: 'secret.set', actor: 'bob', details: { version: 2 } },
    { ...common, kind: 'secret.remove', actor: 'carol' },
  ]);
  t.equal(own.length, 3);
  await pool.query(`create function noa.refuse() returns trigger language plpgsql as
    $$ begin raise exception 'no audit today'; end $$`);
  await pool.query(
    'create trigger refuse before insert on noa.audit execute function noa.refuse()',
  );
  await t.rejects(secrets.set('unrecorded', VALUE, 'mallory'), /no audit today/);
  await pool.query('drop function noa.refuse cascade');
  t.equal(await secrets.read('unrecorded'), undefined, 'no record, no change');
  await secrets.set('r', VALUE, 'dave');
});

t.test('a row that was changed by another hand is refused', async (t) => {
  const { secrets, follow } = await host('d');
  const tampering: [string, string][] = [
    [
      'a flipped bit',
      `update noa.secrets set sealed = set_bit(sealed, 3, 1 - get_bit(sealed, 3)) where name = 't'`,
    ],
    [
      'a flipped bit of the tag',
      `update noa.secrets set sealed = set_byte(sealed, length(sealed) - 1, 255 - get_byte(sealed, length(sealed) - 1)) where name = 't'`,
    ],
    [
      'a shorter tag',
      `update noa.secrets set sealed = substr(sealed, 1, length(sealed) - 4) where name = 't'`,
    ],
    ['nothing', `update noa.secrets set sealed = '' where name = 't'`],
    [
      'another nonce',
      `update noa.secrets set nonce = set_byte(nonce, 0, 255 - get_byte(nonce, 0)) where name = 't'`,
    ],
    ['an empty nonce', `update noa.secrets set nonce = '' where name = 't'`],
    ['another version', `update noa.secrets set version = version + 1 where name = 't'`],
    [
      'another secret’s value',
      `update noa.secrets set (version, nonce, sealed) =
      (select version, nonce, sealed from noa.secrets where name = 'other') where name = 't'`,
    ],
  ];
  for (const [what, sql] of tampering) {
    await secrets.set('t', VALUE, 'root');
    await secrets.set('other', 'of another', 'root');
    t.equal((await pool.query(sql)).rowCount, 1);
    await follow();
    const error = await failure(secrets.read('t'));
    t.match(error, { code: 'INTERNAL', message: /secret t was changed in the database/ }, what);
    t.notMatch(JSON.stringify(error.toBody()), /horse|another$/);
  }
});

t.test('another root key is named as the reason, and its return heals', async (t) => {
  const before = await host('e');
  await before.secrets.set('rotated', VALUE, 'root');
  const after = await host('f', randomBytes(32));
  const error = await failure(read(after.driver, 'rotated'));
  t.match(error, { code: 'INTERNAL', message: /sealed under another root key.*auth\.root_key/ });
  t.match(
    await after.secrets.list(),
    (await before.secrets.list()).map(({ name }) => ({ name })),
  );
  t.same(await read((await host('g')).driver, 'rotated'), { value: VALUE });
  await after.secrets.set('rotated', 'new', 'root');
  t.equal(await after.secrets.read('rotated'), 'new', 'set again under the new key');
  await before.follow();
  t.match(await failure(before.secrets.read('rotated')), { code: 'INTERNAL' });
});

t.test(
  'a change holds at once where it is made and elsewhere with the next revision',
  async (t) => {
    const [one, two] = [await host('h'), await host('i')];
    await one.secrets.set('shared', 'old', 'root');
    await two.follow();
    t.equal(await two.secrets.read('shared'), 'old');
    const [, racing] = await Promise.all([
      one.secrets.set('shared', 'new', 'root'),
      Promise.all(Array.from({ length: 20 }, () => one.secrets.read('shared'))),
    ]);
    t.ok(racing.every((value) => value === 'old' || value === 'new'));
    t.equal(await one.secrets.read('shared'), 'new');
    t.equal(await two.secrets.read('shared'), 'old', 'from memory, until it follows');
    await two.follow();
    t.equal(await two.secrets.read('shared'), 'new');
    await one.secrets.remove('shared', 'root');
    t.equal(await one.secrets.read('shared'), undefined);
    await two.follow();
    t.equal(await two.secrets.read('shared'), undefined);
  },
);
