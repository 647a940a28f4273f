/** The plugin as handlers in this process, and as the built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestHost, type TestHost } from '@noa/sdk/testing';
import plugin from '../src/index.ts';
import type { Plugin } from '../src/noa.gen.ts';

const folder = new URL('..', import.meta.url);
const HOURS = 'We open at nine.\n\nOn Sundays the shop is closed.';

for (const level of ['handlers', 'module']) {
  void describe(`handbook, as ${level}`, () => {
    let host: TestHost<Plugin>;

    before(async () => {
      const config = { model: 'group/writer' };
      host = await createTestHost<Plugin>(
        level === 'handlers' ? { folder, plugin, config } : { folder, config },
      );
    });
    after(() => host.close());

    void test('a page is kept passage by passage, and a new text takes its place', async () => {
      const long = `${HOURS}\n\nAsk for the key.`;
      assert.deepEqual(await host.call('add', { title: 'Hours', text: long }), { passages: 3 });
      assert.deepEqual(await host.call('add', { title: 'Hours', text: HOURS }), { passages: 2 });
      assert.deepEqual(
        [...(host.vectors.peek('pages') ?? [])].map(([id]) => id),
        ['Hours#0', 'Hours#1'],
      );
    });

    void test('the passages that a question is about are what the model answers from', async () => {
      host.models.answers.push('Closed [1].');
      const { passages, answer } = await host.call('ask', {
        question: 'Is the shop closed on Sundays?',
      });
      assert.equal(passages[0]?.text, 'On Sundays the shop is closed.');
      assert.equal(answer, 'Closed [1].');
      const asked = host.calls.findLast(({ operation }) => operation === 'generate');
      assert.match(JSON.stringify(asked?.arguments), /On Sundays the shop is closed/);
    });

    void test('one page alone is looked in, and without its grant nothing is', async () => {
      const { passages } = await host.call('ask', { question: 'Sundays', title: 'Prices' });
      assert.deepEqual(passages, []);
      host.deny('vector');
      await assert.rejects(host.call('ask', { question: 'a' }), { code: 'CAPABILITY_DENIED' });
      host.allow('vector');
    });
  });
}
