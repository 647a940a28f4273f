/** Who is traced: by chance, and callers as far as the operator lets them. */
import t from 'tap';
import { Sampling, type SamplingOptions } from '../../host/telemetry/traces.ts';

function sampling(options: Partial<SamplingOptions>): Sampling {
  const rest = { ratio: 0.01, parent: 'honour', maxPerSecond: 10 } as const;
  return new Sampling({ ...rest, now: () => 0, random: () => 0.5, ...options });
}

t.test('the ratio decides, by chance and by nothing else', async (t) => {
  let seed = 7;
  const random = (): number => {
    seed = (seed * 48_271) % 2_147_483_647; // Park and Miller's generator
    return seed / 2_147_483_647;
  };
  const head = sampling({ random });
  let traced = 0;
  for (let count = 0; count < 100_000; count += 1) traced += head.decide(undefined) ? 1 : 0;
  t.ok(traced > 900 && traced < 1100, `${traced} of 100,000`);
  t.equal(sampling({ ratio: 0, random: () => 0 }).decide(undefined), false);
  t.equal(sampling({ ratio: 1, random: () => 1 - 2 ** -53 }).decide(undefined), true);
});

t.test('callers are followed, as far as the operator lets them', async (t) => {
  let now = 0;
  const head = sampling({ now: () => now });
  const asked = (count: number): number => {
    let traced = 0;
    for (let at = 0; at < count; at += 1) traced += head.decide({ sampled: true }) ? 1 : 0;
    return traced;
  };
  t.equal(asked(1000), 10);
  now = 500;
  t.equal(asked(1000), 5);
  now = 3_600_000;
  t.equal(asked(1000), 10, 'what was not used is not saved');
  now = 0;
  t.equal(asked(1000), 0, 'a clock that goes back gives nothing');
  t.equal(sampling({ random: () => 0 }).decide({ sampled: false }), false);
  const deaf = sampling({ parent: 'ignore', random: () => 0.001 });
  t.equal(deaf.decide({ sampled: false }), true);
  t.equal(sampling({ parent: 'ignore' }).decide({ sampled: true }), false);
});
