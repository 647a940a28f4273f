/** The built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestHost } from '@noa/sdk/testing';

const folder = new URL('..', import.meta.url);

void describe('checksum', () => {
  let host: Awaited<ReturnType<typeof createTestHost>>;

  before(async () => {
    host = await createTestHost({ folder });
  });
  after(() => host.close());

  void test('crc32 answers what zip and PNG write', async () => {
    const sums: [string, string, number][] = [
      ['', '00000000', 0],
      ['123456789', 'cbf43926', 9],
      ['Grüße', 'fbd37071', 7],
    ];
    for (const [text, crc32, bytes] of sums) {
      assert.deepEqual(await host.callUnchecked('crc32', { text }), { crc32, bytes });
    }
  });

  void test('distance counts characters, not bytes', async () => {
    const pairs: [string, string, number][] = [
      ['kitten', 'sitting', 3],
      ['', 'abc', 3],
      ['same', 'same', 0],
      ['größe', 'grosse', 3],
      ['日本語', '日本', 1],
    ];
    for (const [a, b, distance] of pairs) {
      assert.deepEqual(await host.callUnchecked('distance', { a, b }), { distance });
    }
  });

  void test('an input that breaks the schema never reaches the plugin', async () => {
    await assert.rejects(host.callUnchecked('crc32', {}), { code: 'INVALID_ARGUMENT' });
  });
});
