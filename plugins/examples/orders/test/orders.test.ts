/** The plugin as handlers in this process, and as the built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, beforeEach, describe, test } from 'node:test';
import { createTestHost, type TestHost } from '@noa/sdk/testing';
import plugin from '../src/index.ts';
import type { Plugin } from '../src/noa.gen.ts';

const folder = new URL('..', import.meta.url);

for (const level of ['handlers', 'module']) {
  void describe(`orders, as ${level}`, () => {
    let host: TestHost<Plugin>;

    beforeEach(async () => {
      await host?.close();
      const config = { title: 'Today' };
      host = await createTestHost<Plugin>(
        level === 'handlers' ? { folder, plugin, config } : { folder, config },
      );
    });
    after(() => host.close());

    void test('an order becomes an event', async () => {
      const { event } = await host.call('place', { item: 'tea', quantity: 2 });
      const [published] = host.events.published;
      assert.equal(published?.id, event);
      assert.equal(published?.subject, 'orders.placed');
      assert.deepEqual(published?.data, { item: 'tea', quantity: 2 });
    });

    void test('an event is counted once, however often it arrives', async () => {
      const lines = new Set<unknown>();
      host.db.onQuery(/^insert into lines/, ({ params: [id] }) => {
        const rowCount = lines.has(id) ? 0 : 1;
        lines.add(id);
        return { rows: [], rowCount };
      });
      const event = host.events.emit('orders.placed', { item: 'tea', quantity: 2 });
      await host.call('count', event);
      await host.call('count', event);
      assert.equal(lines.size, 1);
      assert.match(host.log.at(-1)?.message ?? '', /came again/);
    });

    void test('the report adds up', async () => {
      host.db.onQuery(/^select item/, [
        { item: 'cake', total: '3' },
        { item: 'tea', total: '5' },
      ]);
      assert.deepEqual(await host.call('report', {}), { text: 'Today\ncake: 3\ntea: 5' });
    });

    void test('without the grant the order is refused, and nothing is told', async () => {
      host.deny('events.publish');
      const order = host.call('place', { item: 'tea', quantity: 1 });
      await assert.rejects(order, { code: 'CAPABILITY_DENIED' });
      assert.equal(host.events.published.length, 0);
    });
  });
}
