/** The plugin as handlers in this process, and as the built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestHost, type TestHost } from '@noa/sdk/testing';
import plugin from '../src/index.ts';
import type { Plugin } from '../src/noa.gen.ts';

const folder = new URL('..', import.meta.url);

for (const level of ['handlers', 'module']) {
  void describe(`triage, as ${level}`, () => {
    let host: TestHost<Plugin>;

    before(async () => {
      host = await createTestHost<Plugin>(level === 'handlers' ? { folder, plugin } : { folder });
    });
    after(() => host.close());

    void test('a message is sorted by the words that it has in common with a topic', async () => {
      const { about } = await host.call('sort', { text: 'a problem with billing and payment' });
      assert.equal(about, 'billing and payment');
    });

    void test('a question gets the answer to the likest one', async () => {
      const { answer, likeness } = await host.call('answer', { question: 'How can I pay?' });
      assert.equal(answer, 'By card or bank transfer.');
      assert.ok(likeness > 0.99);
    });

    void test('without its grant nothing is asked of a model', async () => {
      host.deny('inference');
      await assert.rejects(host.call('sort', { text: 'a' }), { code: 'CAPABILITY_DENIED' });
      host.allow('inference');
    });
  });
}
