/** The plugin as handlers in this process, and as the built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { NoaError } from '@noa/sdk';
import { createTestHost, type TestHost } from '@noa/sdk/testing';
import plugin from '../src/index.ts';
import type { Plugin } from '../src/noa.gen.ts';

const folder = new URL('..', import.meta.url);

for (const level of ['handlers', 'module']) {
  void describe(`digest, as ${level}`, () => {
    let host: TestHost<Plugin>;

    before(async () => {
      host = await createTestHost<Plugin>(level === 'handlers' ? { folder, plugin } : { folder });
    });
    after(() => host.close());

    void test('digest counts words and takes first lines', async () => {
      host.plugin.onCall('notes', 'list', () => ({
        notes: [
          { id: '2', text: 'Garden\nwater the beans' },
          { id: '1', text: ' Buy milk ' },
        ],
      }));
      assert.deepEqual(await host.call('digest', { limit: 2 }), {
        notes: 2,
        words: 6,
        titles: ['Garden', 'Buy milk'],
      });
      assert.deepEqual(host.calls.at(-1)?.arguments, {
        plugin: 'notes',
        export: 'list',
        input: { limit: 2 },
      });
    });

    void test('an error of notes reaches the caller with its code', async () => {
      host.plugin.onCall('notes', 'list', () => {
        throw new NoaError('GRANT_PENDING', 'notes waits for a grant');
      });
      await assert.rejects(host.call('digest', {}), { code: 'GRANT_PENDING' });
    });

    void test('without its grant the caller is told which right is missing', async () => {
      host.deny('plugin.call');
      await assert.rejects(host.call('digest', {}), { code: 'CAPABILITY_DENIED' });
      host.allow('plugin.call');
    });
  });
}
