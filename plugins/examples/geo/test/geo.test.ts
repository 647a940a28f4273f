/** The built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestHost } from '@noa/sdk/testing';

const folder = new URL('..', import.meta.url);

void describe('geo', () => {
  let host: Awaited<ReturnType<typeof createTestHost>>;

  before(async () => {
    host = await createTestHost({ folder });
  });
  after(() => host.close());

  const berlin = { latitude: 52.52, longitude: 13.405 };

  void test('distance is that of the haversine formula', async () => {
    const paris = { latitude: 48.8566, longitude: 2.3522 };
    const there = await host.callUnchecked('distance', { from: berlin, to: paris });
    assert.deepEqual(there, await host.callUnchecked('distance', { from: paris, to: berlin }));
    const { metres } = there as { metres: number };
    assert.ok(Math.abs(metres - 877_464) < 50, `${metres} m`);
    const poles = {
      from: { latitude: 90, longitude: 0 },
      to: { latitude: -90, longitude: 77 },
    };
    const { metres: half } = (await host.callUnchecked('distance', poles)) as { metres: number };
    assert.ok(Math.abs(half - 20_015_114.44) < 0.02, `${half} m`);
  });

  void test('nearest names the place', async () => {
    const places = [
      { name: 'Kraków', latitude: 50.0647, longitude: 19.945 },
      { name: 'Łódź', latitude: 51.7592, longitude: 19.456 },
      { name: 'København', latitude: 55.6761, longitude: 12.5683 },
    ];
    const { name } = (await host.callUnchecked('nearest', { from: berlin, places })) as {
      name: string;
    };
    assert.equal(name, 'København');
  });

  void test('an input that breaks the schema never reaches the plugin', async () => {
    const from = { latitude: 91, longitude: 0 };
    await assert.rejects(host.callUnchecked('distance', { from, to: berlin }), {
      code: 'INVALID_ARGUMENT',
    });
  });
});
