/** The built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestHost } from '@noa/sdk/testing';

const folder = new URL('..', import.meta.url);

void describe('slugs', () => {
  let host: Awaited<ReturnType<typeof createTestHost>>;

  before(async () => {
    host = await createTestHost({ folder });
  });
  after(() => host.close());

  void test('a title becomes a name', async () => {
    const names: [string, string][] = [
      ['Hello, World!', 'hello-world'],
      ['  Über die Straße -- Teil 2 ', 'ueber-die-strasse-teil-2'],
      ['Crème brûlée à la façon d’Ésope', 'creme-brulee-a-la-facon-d-esope'],
      ['日本語 と Rust', '日本語-と-rust'],
    ];
    for (const [title, slug] of names) {
      assert.deepEqual(await host.callUnchecked('make', { title }), { slug, taken: 0 });
    }
  });

  void test('a name that is taken gets a number', async () => {
    await host.callUnchecked('make', { title: 'News' });
    const again = await host.callUnchecked('make', { title: 'news?' });
    assert.deepEqual(again, { slug: 'news-2', taken: 1 });
  });

  void test('a long title is cut, and one without letters is refused', async () => {
    const { slug } = (await host.callUnchecked('make', { title: 'ab '.repeat(100) })) as {
      slug: string;
    };
    assert.equal(slug, 'ab-'.repeat(27).slice(0, 80));
    await assert.rejects(host.callUnchecked('make', { title: '?!' }), {
      code: 'INVALID_ARGUMENT',
      message: /title needs a letter/,
    });
  });

  void test('without its grant the caller is told which right is missing', async () => {
    host.deny('cache.increment');
    await assert.rejects(host.callUnchecked('make', { title: 'x' }), { code: 'CAPABILITY_DENIED' });
    host.allow('cache.increment');
  });
});
