/** The plugin as handlers in this process, and as the built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestHost, type TestHost } from '@noa/sdk/testing';
import plugin from '../src/index.ts';
import type { Plugin } from '../src/noa.gen.ts';

const folder = new URL('..', import.meta.url);
const NOTE = { id: 'n1', text: 'Buy milk' };

for (const level of ['handlers', 'module']) {
  void describe(`notes, as ${level}`, () => {
    let host: TestHost<Plugin>;

    before(async () => {
      host = await createTestHost<Plugin>(level === 'handlers' ? { folder, plugin } : { folder });
      host.db
        .onQuery(/^insert into notes/, { rows: [], rowCount: 1 })
        .onQuery(/where id = \$1/, ({ params: [id] }) => (id === NOTE.id ? [NOTE] : []))
        .onQuery(/order by seq desc/, ({ params: [limit] }) =>
          [3, 2, 1].map((n) => ({ id: `n${n}`, text: `note ${n}` })).slice(0, Number(limit)),
        );
    });
    after(() => host.close());

    void test('create stores the note and answers it with its id', async () => {
      const { id, text } = await host.call('create', { text: 'Buy milk' });
      assert.match(id, /^[0-9a-f-]{36}$/);
      assert.equal(text, 'Buy milk');
      assert.deepEqual(host.db.statements.at(-1)?.params, [id, 'Buy milk']);
      assert.deepEqual(host.log.at(-1), { level: 'info', message: 'note created', fields: { id } });
    });

    void test('read answers the note and counts', async () => {
      assert.deepEqual(await host.call('read', { id: 'n1' }), { ...NOTE, reads: 1 });
      assert.deepEqual(await host.call('read', { id: 'n1' }), { ...NOTE, reads: 2 });
      assert.equal(host.cache.peek('notes:reads:n1'), 2);
    });

    void test('read of an unknown id is NOT_FOUND', async () => {
      await assert.rejects(host.call('read', { id: 'nope' }), { code: 'NOT_FOUND' });
    });

    void test('list answers pages, and where the next begins', async () => {
      assert.deepEqual(await host.call('list', { limit: 2 }), {
        notes: [
          { id: 'n3', text: 'note 3' },
          { id: 'n2', text: 'note 2' },
        ],
        next: 'n2',
      });
      assert.equal((await host.call('list', { limit: 3 })).next, undefined);
    });

    void test('an input that breaks the schema never reaches the plugin', async () => {
      const calls = host.calls.length;
      await assert.rejects(host.callUnchecked('create', { text: '' }), {
        code: 'INVALID_ARGUMENT',
      });
      assert.equal(host.calls.length, calls);
    });

    void test('without its grant the caller is told which right is missing', async () => {
      host.deny('db.execute');
      await assert.rejects(host.call('create', { text: 'x' }), {
        code: 'CAPABILITY_DENIED',
        message: /db\.execute/,
      });
      host.allow('db.execute');
      await host.call('create', { text: 'x' });
    });
  });
}
