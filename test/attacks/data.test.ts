/**
 * Data: a plugin that has its own schema and its own cache keys, and wants what belongs to others, to the
 * host, or to the machine. The database itself refuses: the plugin logs in as a role that owns nothing.
 */
import t, { type Test } from 'tap';
import { built, Target } from './target.ts';

const thief = await built(
  {
    name: 'thief',
    exports: { query: {}, execute: {}, transaction: {}, cache: {} },
    capabilities: [
      {
        capability: 'db',
        operations: ['query', 'execute', 'transaction'],
        resources: ['thief.*'],
        reason: 'Keeps its loot.',
      },
      {
        capability: 'cache',
        operations: ['get', 'set', 'delete', 'increment', 'lock'],
        resources: ['thief:*'],
        reason: 'Counts its loot.',
      },
    ],
    limits: { timeoutMs: 3000 },
  },
  `import { definePlugin } from '@noa/sdk';
   export default definePlugin({
     query: async ({ sql }, { db }) => ({ rows: await db.query(sql) }),
     execute: ({ sql }, { db }) => db.execute(sql),
     transaction: async ({ statements }, { db }) => ({ results: await db.transaction(statements) }),
     cache: async ({ operation, key, value }, { cache }) => {
       if (operation === 'set') return cache.set(key, value);
       if (operation === 'increment') return cache.increment(key);
       if (operation === 'delete') return cache.delete(key);
       if (operation === 'lock') return (await cache.lock(key, { ttlMs: 1000 })) !== null;
       return { value: await cache.get(key) };
     },
   });`,
);

const target = await Target.start(t, [thief]);
const { host } = target;

/** Each statement by each operation that takes SQL: PostgreSQL refuses it for want of a right. */
async function refused(t: Test, statements: readonly string[]): Promise<void> {
  for (const sql of statements) {
    for (const name of ['query', 'execute']) {
      const { status, body } = await target.call('thief', name, { sql });
      t.match(
        { status, body },
        {
          status: 403,
          body: {
            code: 'CAPABILITY_DENIED',
            detail: /permission denied|must be owner|is not allowed|in a read-only transaction/,
          },
        },
        `${name}: ${sql}`,
      );
    }
  }
}

/** More than one statement is not taken apart: the protocol has no place for a second. */
async function oneOnly(t: Test, name: string, statements: readonly string[]): Promise<void> {
  for (const sql of statements) {
    const { status, body } = await target.call('thief', name, { sql });
    const detail = /cannot insert multiple commands/;
    t.match({ status, body }, { status: 400, body: { detail } }, `${name}: ${sql}`);
  }
}

const denied = { plugin: 'thief', capability: 'db', outcome: /denied|failed/ };

target.attack('the tables of another plugin', { audit: denied }, async (t) => {
  await refused(t, [
    'select * from notes.notes',
    'table notes.notes',
    "insert into notes.notes values ('1', 'forged')",
    'with stolen as (delete from notes.notes returning *) select * from stolen',
    'create view thief.window as select * from notes.notes',
    'select * from pg_catalog.pg_largeobject',
  ]);
  for (const name of ['query', 'execute']) {
    await oneOnly(t, name, [
      'set search_path = notes; select * from notes',
      "select set_config('search_path', 'notes', false); select * from notes",
    ]);
  }
});

target.attack('the state of the host', { audit: denied }, (t) =>
  refused(t, [
    'select * from noa.grants',
    "update noa.grants set status = 'approved'",
    'delete from noa.audit',
    'select * from noa.secrets',
    'select rolpassword from pg_authid',
    'select * from pg_shadow',
  ]),
);

target.attack('another role', { audit: denied }, async (t) => {
  await refused(t, [
    'set role noa',
    'set session authorization noa',
    'create role accomplice superuser',
    'grant noa to current_user',
    'alter database noa owner to current_user',
  ]);
  // Allowed by SQL, and of no use: there is nothing to fall back to.
  const before = await target.call('thief', 'query', { sql: 'select current_user as me' });
  await target.call('thief', 'execute', { sql: 'reset role' });
  await target.call('thief', 'execute', { sql: 'reset session authorization' });
  const after = await target.call('thief', 'query', { sql: 'select current_user as me' });
  t.match(before, { status: 200 });
  t.strictSame(after.body, before.body);
  // PostgreSQL lets every role change its own password; the host sets it right at its next login.
  await target.call('thief', 'execute', { sql: "alter role current_user password 'known'" });
  const logins = Array.from({ length: 6 }, () =>
    target.call('thief', 'execute', { sql: 'select pg_sleep(0.1)' }),
  );
  for (const { status } of await Promise.all(logins)) t.equal(status, 200);
});

target.attack('the files and programs of the machine', { audit: denied }, (t) =>
  refused(t, [
    "copy (select 1) to program 'touch /tmp/noa-was-here'",
    "copy thief.loot from program 'id'",
    "copy thief.loot from '/etc/passwd'",
    "select pg_read_file('/etc/passwd')",
    "select pg_ls_dir('/')",
    "select lo_import('/etc/passwd')",
    'create extension plpython3u',
    "create function thief.f() returns int language c as '/lib/x86_64-linux-gnu/libc.so.6', 'getpid'",
    "load '/tmp/evil.so'",
  ]),
);

target.attack('a read right used to write', { audit: denied }, async (t) => {
  t.match(await target.call('thief', 'execute', { sql: 'create table thief.loot (n serial)' }), {
    status: 200,
  });
  await oneOnly(t, 'query', [
    'select 1; drop table thief.loot',
    'commit; drop table thief.loot',
    'set transaction read write; drop table thief.loot',
  ]);
  for (const sql of [
    'with gone as (delete from thief.loot returning 1) select * from gone',
    'insert into thief.loot values (1) returning n',
    "select nextval('thief.loot_n_seq')",
    'drop table thief.loot',
    "do $$ begin execute 'drop table thief.loot'; end $$",
  ]) {
    const { status, body } = await target.call('thief', 'query', { sql });
    t.match({ status, body }, { status: 403, body: { code: 'CAPABILITY_DENIED' } }, sql);
  }
  const lifted = "do $$ begin set transaction read write; execute 'drop table thief.loot'; end $$";
  const { status, body } = await target.call('thief', 'query', { sql: lifted });
  t.match({ status, body }, { status: 400, body: { detail: /read-write mode/ } }, lifted);
  t.match(
    await target.call('thief', 'query', { sql: 'select count(*)::int as n from thief.loot' }),
    {
      status: 200,
      body: { rows: [{ n: 0 }] },
    },
  );
});

target.attack(
  'a session left in another state for whoever comes next',
  { audit: { plugin: 'thief', capability: 'db', operation: 'execute' } },
  async (t) => {
    for (const sql of [
      "set statement_timeout = '1h'",
      'set default_transaction_read_only = on',
      'create temp table notes (text text)',
      'listen everything',
      'select pg_advisory_lock(1)',
      'prepare trap as select 1',
      'begin',
    ]) {
      await target.call('thief', 'execute', { sql });
    }
    t.match(await target.call('thief', 'execute', { sql: 'create table thief.after (n int)' }), {
      status: 200,
    });
    t.match(await host.post('/plugins/notes/notes', { text: 'after the trap' }), { status: 201 });
  },
);

target.attack(
  'cache keys of others, by prefix and by spelling',
  { audit: { kind: 'capability.denial', plugin: 'thief', capability: 'cache' } },
  async (t) => {
    for (const key of [
      'notes:reads:1',
      'thief',
      'thie',
      'Thief:x',
      ' thief:x',
      'thief\u0000:x',
      '*',
      'thief:*/../notes:reads:1',
      '{thief:}notes:reads:1',
      '',
      '__proto__',
    ]) {
      for (const operation of ['get', 'set', 'increment', 'delete', 'lock']) {
        const answer = await target.call('thief', 'cache', { operation, key, value: 1 });
        if (key.startsWith('thief:')) t.equal(answer.status, 200, 'its own, however strange');
        else t.ok([400, 403].includes(answer.status), `${operation} ${JSON.stringify(key)}`);
      }
    }
    t.match(await target.call('thief', 'cache', { operation: 'get', key: 'thief:free' }), {
      status: 200,
      body: { value: null },
    });
  },
);

target.aftermath();
