/**
 * Rate limits: the arithmetic of the window for any sequence of requests and any number of hosts, then the
 * same through the front, and at last through real hosts that share a cache.
 */
import fc from 'fast-check';
import t from 'tap';
import { cache } from '../../capabilities/cache/capability.ts';
import { openEmbeddedCache } from '../../capabilities/cache/embedded.ts';
import { createRedisDriver } from '../../capabilities/cache/redis.ts';
import { covers, NoaError } from '@noa/sdk/host';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import {
  type Level,
  type LevelLimits,
  Limits,
  RateLimitError,
  rateFields,
  type RateState,
  type SharedCounters,
} from '../../host/gateway/limits.ts';
import { cacheCounters, openLimits } from '../../host/gateway/shared-counters.ts';
import { startFront } from '../transports/front.ts';

const MINUTE = 60_000;
const LEVELS: LevelLimits = { l1: 200, l2: 150, l3: 120, l4: 80, l5: 40 };

/** What the hosts share, in memory; away when told so. */
class Counters implements SharedCounters {
  readonly values = new Map<string, number>();
  readonly asked: string[] = [];
  isAway = false;

  add(key: string, by: number): Promise<number> {
    this.asked.push(key);
    if (this.isAway) return Promise.reject(new NoaError('UNAVAILABLE', 'the cache is away'));
    const value = (this.values.get(key) ?? 0) + by;
    this.values.set(key, value);
    return Promise.resolve(value);
  }
}

interface Clock {
  now: number;
}

function limitsOf(clock: Clock, shared: SharedCounters, levels: LevelLimits = LEVELS) {
  const refused: Level[] = [];
  const heard: boolean[] = [];
  const limits = new Limits({
    levels,
    shared,
    now: () => clock.now,
    refused: (level) => refused.push(level),
    onShared: (isShared) => heard.push(isShared),
  });
  return { limits, refused, heard };
}

/** Whether a request is admitted. */
async function admits(limits: Limits, subject = 'user:a', level = 'L5'): Promise<boolean> {
  try {
    await limits.take(subject, level);
    return true;
  } catch (error) {
    if (error instanceof RateLimitError) return false;
    throw error;
  }
}

async function refusal(limits: Limits, subject = 'user:a', level = 'L5'): Promise<RateLimitError> {
  try {
    await limits.take(subject, level);
  } catch (error) {
    if (error instanceof RateLimitError) return error;
    throw error;
  }
  throw new Error('it was admitted');
}

t.test('in no stretch of time are more admitted than the limit allows', async () => {
  const steps = fc.array(
    fc.record({ wait: fc.nat({ max: 20_000 }), requests: fc.nat({ max: 30 }) }),
    { minLength: 1, maxLength: 60 },
  );
  await fc.assert(
    fc.asyncProperty(
      steps,
      fc.integer({ min: 1, max: 60 }),
      fc.nat({ max: MINUTE }),
      async (sequence, l5, start) => {
        const clock = { now: 1_700_000_000_000 + start };
        const { limits } = limitsOf(clock, new Counters(), { ...LEVELS, l5 });
        const times: number[] = [];
        for (const { wait, requests } of sequence) {
          clock.now += wait;
          for (let n = 0; n < requests; n++) if (await admits(limits)) times.push(clock.now);
        }
        limits.close();
        for (const [first, from] of times.entries()) {
          for (let last = first; last < times.length; last++) {
            const stretch = (times[last] ?? 0) - from;
            if (stretch > MINUTE) break;
            const allowed = l5 * (1 + stretch / MINUTE);
            if (last - first + 1 > allowed + 1e-6) return false;
          }
        }
        const byMinute = Map.groupBy(times, (time) => Math.floor(time / MINUTE));
        return [...byMinute.values()].every((admitted) => admitted.length <= l5);
      },
    ),
  );
});

t.test('hosts together admit at most a tenth each above the limit', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ host: fc.nat({ max: 3 }), tick: fc.boolean() }), {
        minLength: 1,
        maxLength: 400,
      }),
      fc.integer({ min: 1, max: 80 }),
      async (sequence, l5) => {
        const clock = { now: 1_700_000_000_000 - (1_700_000_000_000 % MINUTE) };
        const shared = new Counters();
        const hosts = Array.from({ length: 4 }, () =>
          limitsOf(clock, shared, { ...LEVELS, l5 }),
        ).map(({ limits }) => limits);
        let admitted = 0;
        for (const { host, tick } of sequence) {
          if (tick) clock.now += 7; // far less than a minute altogether
          const limits = hosts[host];
          if (limits !== undefined && (await admits(limits))) admitted++;
        }
        for (const limits of hosts) limits.close();
        return admitted <= l5 + 4 * Math.ceil(l5 / 10);
      },
    ),
  );
  t.pass('for any sequence');
});

t.test('the same over many minutes, however hosts and pauses alternate', async () => {
  const HOSTS = 3;
  const step = fc.record({
    host: fc.nat({ max: HOSTS - 1 }),
    wait: fc.oneof(fc.constant(0), fc.nat({ max: 25_000 })),
    requests: fc.integer({ min: 1, max: 25 }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 1, maxLength: 60 }),
      fc.integer({ min: 1, max: 40 }),
      async (sequence, l5) => {
        const clock = { now: 1_700_000_000_000 };
        const shared = new Counters();
        const hosts = Array.from(
          { length: HOSTS },
          () => limitsOf(clock, shared, { ...LEVELS, l5 }).limits,
        );
        const times: number[] = [];
        for (const { host, wait, requests } of sequence) {
          clock.now += wait;
          const limits = hosts[host];
          for (let n = 0; limits && n < requests; n++) {
            if (await admits(limits)) times.push(clock.now);
          }
        }
        for (const limits of hosts) limits.close();
        // In either of the two windows that count.
        const unknown = 2 * HOSTS * Math.ceil(l5 / 10);
        return times.every((from, first) =>
          times.slice(first).every((to, more) => {
            const stretch = to - from;
            return stretch > MINUTE || more + 1 <= l5 * (1 + stretch / MINUTE) + unknown + 1e-6;
          }),
        );
      },
    ),
  );
});

t.test('whoever waits as long as told is admitted, and not before', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 60 }),
      fc.array(fc.nat({ max: 8000 }), { minLength: 60, maxLength: 200 }),
      async (l5, waits) => {
        const clock = { now: 1_700_000_000_000 };
        const { limits } = limitsOf(clock, new Counters(), { ...LEVELS, l5 });
        for (const wait of waits) {
          clock.now += Math.floor(wait / l5);
          if (await admits(limits)) continue;
          const { retryAfterMs = 0, rate } = await refusal(limits);
          if (retryAfterMs <= 0 || rate.resetSeconds !== Math.ceil(retryAfterMs / 1000))
            return false;
          clock.now += retryAfterMs - 2;
          if (await admits(limits)) return false;
          clock.now += 3;
          if (!(await admits(limits))) return false;
        }
        limits.close();
        return true;
      },
    ),
  );
});

t.test(
  'the others hear within a tenth of a second, and a host in need of their word waits',
  async (t) => {
    const clock = { now: 1_700_000_000_000 - (1_700_000_000_000 % MINUTE) };
    const shared = new Counters();
    const one = limitsOf(clock, shared).limits;
    const two = limitsOf(clock, shared).limits;
    t.teardown(() => [one, two].forEach((limits) => limits.close()));
    const states: (RateState | Promise<RateState>)[] = [];
    for (let n = 0; n < 4; n++) states.push(one.take('user:a', 'L5'));
    t.ok(
      states.every((state) => !(state instanceof Promise)),
      'a tenth costs no way to the cache',
    );
    t.strictSame(shared.asked, []);
    const fifth = one.take('user:a', 'L5');
    t.ok(fifth instanceof Promise, 'the next one waits until the others know');
    t.match(await fifth, { level: 'L5', limit: 40, remaining: 35 });
    const [key] = [...shared.values.keys()];
    t.equal(shared.values.get(String(key)), 4);
    t.notMatch(String(key), 'user:a', 'the cache holds no name');

    await two.take('user:a', 'L5');
    while (shared.values.get(String(key)) !== 6) await new Promise(setImmediate);
    await two.take('user:a', 'L5');
    t.match(await two.take('user:a', 'L5'), { remaining: 32 }, 'with what the other has counted');
  },
);

t.test('while the cache is away each host counts alone, and says so once', async (t) => {
  const clock = { now: 1_700_000_000_000 - (1_700_000_000_000 % MINUTE) };
  const shared = new Counters();
  const { limits, refused, heard } = limitsOf(clock, shared);
  t.teardown(() => limits.close());
  shared.isAway = true;
  let admitted = 0;
  for (let n = 0; n < 100; n++) if (await admits(limits)) admitted++;
  t.equal(admitted, 40);
  t.equal(refused.length, 60);
  t.strictSame(heard, [false]);
  shared.isAway = false;
  while (heard.length < 2) await new Promise(setImmediate);
  t.strictSame(heard, [false, true]);
  t.strictSame(Math.max(...shared.values.values()), 40, 'what was counted meanwhile is told');
});

t.test(
  'levels: each has its own limit, an unknown one is the lowest, identities are apart',
  async (t) => {
    const clock = { now: 1_700_000_000_000 };
    const { limits } = limitsOf(clock, new Counters());
    t.teardown(() => limits.close());
    const counted = async (subject: string, level: string | undefined): Promise<number> => {
      let admitted = 0;
      try {
        for (;;) {
          await limits.take(subject, level);
          admitted++;
        }
      } catch (error) {
        if (!(error instanceof RateLimitError)) throw error;
        return admitted;
      }
    };
    const levels = [
      ['L1', 200],
      ['L2', 150],
      ['L3', 120],
      ['L4', 80],
      ['L5', 40],
    ] as const;
    for (const [level, limit] of levels) t.equal(await counted(`user:${level}`, level), limit);
    t.equal(await counted('user:none', undefined), 40);
    t.equal(await counted('user:odd', 'L0'), 40);
    limits.setLevels({ ...LEVELS, l5: 50 });
    t.equal(await counted('user:none', undefined), 10, 'a new limit counts what was counted');
    limits.setLevels({ ...LEVELS, l5: 10 });
    t.notOk(await admits(limits, 'user:none'));
  },
);

t.test('the fields say what is left and when there is more', async (t) => {
  const rate = { level: 'L4', limit: 80, remaining: 79, resetSeconds: 12 } as const;
  t.strictSame(rateFields(rate), {
    'ratelimit-limit': '80',
    'ratelimit-remaining': '79',
    'ratelimit-reset': '12',
    'ratelimit-policy': '"L4";q=80;w=60',
    ratelimit: '"L4";r=79;t=12',
  });
});

t.test('no grant of a plugin covers the keys of the limits', async (t) => {
  fc.assert(
    fc.property(
      fc.string({ maxLength: 8, unit: 'binary' }),
      fc.string({ maxLength: 3 }),
      (a, b) => {
        for (const pattern of [a, b, `${a}*`, `*${a}`, '*', '*rate:*', '*rate:']) {
          let normal: string;
          try {
            normal = cache.normalizeResource(pattern);
          } catch {
            continue;
          }
          if (covers(normal, `*rate:28333333:${b}`)) return false;
        }
        return true;
      },
    ),
  );
  t.pass('for any sequence');
});

t.test('through the front', async (t) => {
  const server = await openEmbeddedCache({ dataDir: t.testdir(), warn: () => undefined });
  t.teardown(() => server.close());
  const refused: Level[] = [];
  const { limits, ...opened } = openLimits(
    createRedisDriver(server),
    { ...LEVELS, l5: 5 },
    { refused: (level) => refused.push(level), warn: (line) => t.comment(line) },
  );
  t.teardown(() => opened[Symbol.asyncDispose]());
  const credential = (name: string, subject: string, level?: string) => ({
    token: name.padEnd(32, '-'),
    principal: { subject, scopes: ['admin'], ...(level === undefined ? {} : { level }) },
  });
  const front = await startFront({
    gateway: new Gateway({
      authenticator: new Authenticator({
        credentials: [
          credential('low', 'user:low'),
          credential('high', 'user:high', 'L1'),
          credential('boot', 'bootstrap'),
        ],
        now: Date.now,
      }),
      limits,
      denied: () => undefined,
    }),
  });
  t.teardown(() => front.close());
  const get = (name: string, path: string, method = 'GET') =>
    front.request(method, path, { token: name.padEnd(32, '-') });

  const first = await get('low', '/v1/plugins');
  t.equal(first.status, 200);
  t.match(Object.fromEntries(first.headers), {
    'ratelimit-limit': '5',
    'ratelimit-remaining': '4',
    'ratelimit-reset': /^[1-9]\d?$/,
    'ratelimit-policy': '"L5";q=5;w=60',
    ratelimit: /^"L5";r=4;t=[1-9]\d?$/,
  });
  const second = await get('low', '/nothing/here');
  t.match(second, { status: 404, body: { code: 'NOT_FOUND' } });
  t.equal(second.headers.get('ratelimit-remaining'), '3', 'a path with nothing costs the same');
  t.equal((await get('low', '/plugins/none/x')).headers.get('ratelimit-remaining'), '2');
  t.equal((await get('low', '/v1/plugins', 'PATCH')).headers.get('ratelimit-remaining'), '1');
  await get('low', '/v1/plugins');
  const over = await get('low', '/v1/plugins');
  t.match(over, { status: 429, body: { code: 'RATE_LIMITED', detail: /L5 allows 5 requests/ } });
  t.match(Object.fromEntries(over.headers), {
    'content-type': 'application/problem+json',
    'retry-after': /^[1-9]\d{0,2}$/,
    'ratelimit-remaining': '0',
    ratelimit: /^"L5";r=0;t=[1-9]\d{0,2}$/,
  });
  t.equal(over.headers.get('retry-after'), over.headers.get('ratelimit-reset'));
  const blind = await get('low', '/plugins/none/x');
  t.match(blind, { status: 429 }, 'beyond the limit nothing is told of what is mounted');
  t.strictSame(refused, ['L5', 'L5']);

  const high = await get('high', '/v1/plugins');
  t.equal(high.headers.get('ratelimit-limit'), '200');
  for (let n = 0; n < 7; n++) {
    const boot = await get('boot', '/v1/plugins');
    t.equal(boot.status, 200);
    t.equal(boot.headers.get('ratelimit-limit'), null, 'the bootstrap credential has no limit');
  }
  const stranger = await front.request('GET', '/v1/plugins', { token: null });
  t.equal(stranger.headers.get('ratelimit-limit'), null);
});

t.test(
  'the counters of an embedded cache outlive a reader, and are kept for a while',
  async (t) => {
    const server = await openEmbeddedCache({ dataDir: t.testdir(), warn: () => undefined });
    t.teardown(() => server.close());
    const driver = createRedisDriver(server);
    t.teardown(() => driver.close());
    const counters = cacheCounters(driver);
    t.equal(await counters.add('1:a', 0, 60_000), 0);
    t.equal(await counters.add('1:a', 3, 60_000), 3);
    t.equal(await counters.add('1:a', 4, 60_000), 7);
    t.equal(await counters.add('2:a', 1, 60_000), 1);
  },
);
