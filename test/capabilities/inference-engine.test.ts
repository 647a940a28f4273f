/** The engine of `inference` with real models: turns, bounds, deadlines, workers that die, memory. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import {
  type BackendCall,
  type Embedded,
  PRIORITIES,
} from '../../capabilities/inference/backend.ts';
import { Crew, type CrewOptions } from '../../capabilities/inference/engine/crew.ts';
import {
  EmbeddingQueues,
  type Request,
} from '../../capabilities/inference/engine/embedding-queue.ts';
import { Engine, type EngineOptions } from '../../capabilities/inference/engine/engine.ts';
import { type Lane, openProcess } from '../../capabilities/inference/engine/lane.ts';
import { ModelRegistry } from '../../capabilities/inference/models/registry.ts';

t.setTimeout(120_000);
const cache = mkdtempSync(join(tmpdir(), 'noa-models-'));
t.teardown(() => rmSync(cache, { recursive: true, force: true }));
const registry = new ModelRegistry({ cache, paths: [] });
await registry.rescan();
const entry = registry.find('use-lite');
if (entry === undefined) throw new Error('use-lite comes with the host');
const files = await registry.files(entry);
const KEY = 'use-lite@1.0.0';
// Workers alone keep no test waiting.
const alive = setInterval(() => undefined, 1000);
t.teardown(() => clearInterval(alive));

function call(plugin = 'p', ms = 60_000): BackendCall & { readonly leave: () => void } {
  const controller = new AbortController();
  const signal = AbortSignal.any([controller.signal, AbortSignal.timeout(ms)]);
  return { plugin, signal, deadline: Date.now() + ms, leave: () => controller.abort() };
}

/** A crew whose workers the test can end. */
function crew(test: Test, options: Partial<CrewOptions> = {}) {
  const lanes: Lane[] = [];
  const lost: string[] = [];
  const batches: number[] = [];
  const made = new Crew({
    open: (events) => {
      const lane = openProcess(events);
      lanes.push(lane);
      return lane;
    },
    workers: 1,
    threads: 1,
    maxBatch: 4,
    maxQueued: 64,
    limitMs: 30_000,
    hasRoom: () => true,
    prepare: (station, key) => station.load(key, files, 'cpu'),
    observeBatch: (texts) => batches.push(texts),
    onLost: (reason) => lost.push(reason),
    now: Date.now,
    ...options,
  });
  test.teardown(() => made.close());
  return { crew: made, lanes, lost, batches };
}

function engine(test: Test, options: Partial<EngineOptions> = {}) {
  const notices: string[] = [];
  const made = new Engine({
    registry,
    workers: 1,
    maxBatch: 32,
    maxQueued: 4096,
    limitMs: 30_000,
    memoryBytes: 1 << 30,
    device: 'auto',
    untrusted: [],
    observeBatch: () => undefined,
    onNotice: (message) => notices.push(message),
    now: Date.now,
    ...options,
  });
  test.teardown(() => made.close());
  return { engine: made, notices };
}

const texts = (count: number): string[] =>
  Array.from({ length: count }, (_, at) => `a text of ${at} words`);

t.test(
  'each text is handed out once, in batches of one model, whatever is added and taken away',
  (t) => {
    const step = fc.oneof(
      fc.record({
        add: fc.integer({ min: 1, max: 9 }),
        plugin: fc.constantFrom('a', 'b', 'c'),
        key: fc.constantFrom('x', 'y'),
        truncate: fc.boolean(),
        priority: fc.constantFrom(...PRIORITIES),
      }),
      fc.record({ take: fc.integer({ min: 1, max: 6 }), back: fc.boolean() }),
      fc.record({ remove: fc.nat() }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const queues = new EmbeddingQueues<Request & { readonly id: number }>();
        const waiting = new Map<number, Request & { readonly id: number }>();
        const left = new Map<number, Set<number>>();
        let id = 0;
        for (const each of steps) {
          if ('add' in each) {
            id += 1;
            const { plugin, key, truncate, priority } = each;
            const request = { id, plugin, key, truncate, priority, texts: texts(each.add) };
            queues.of(request).add(request);
            waiting.set(id, request);
            left.set(id, new Set(request.texts.keys()));
          } else if ('remove' in each) {
            const request = waiting.get((each.remove % (id + 1)) + 1);
            if (request === undefined) continue;
            queues.of(request).remove(request);
            waiting.delete(request.id);
            left.delete(request.id);
          } else {
            const next = queues.next();
            if (next === undefined) continue;
            const pieces = queues.take(next, each.take);
            const count = pieces.reduce((sum, { from, to }) => sum + to - from, 0);
            if (count === 0 || count > each.take) return false;
            if (!next.truncate && pieces.length !== 1) return false;
            for (const piece of pieces) {
              const { request, from, to } = piece;
              if (request.priority !== next.priority) return false;
              if (request.key !== next.key || request.truncate !== next.truncate) return false;
              if (each.back) queues.of(request).putBack(piece);
              else
                for (let at = from; at < to; at += 1)
                  if (!left.get(request.id)?.delete(at)) return false;
            }
          }
          const expected = [...left.values()].reduce((sum, { size }) => sum + size, 0);
          const all = PRIORITIES.map((priority) => queues.of({ priority }));
          if (queues.size !== expected || all.some((one) => one.chars < one.size)) return false;
        }
        return true;
      }),
    );
    t.end();
  },
);

t.test('plugins take turns: one text waits for a batch, not for a crowd', async (t) => {
  const { crew: made, batches } = crew(t);
  const order: string[] = [];
  const crowd = made
    .embed(KEY, { texts: texts(60), truncate: true }, call('crowd'))
    .then(() => order.push('crowd'));
  const one = made
    .embed(KEY, { texts: ['alone'], truncate: true }, call('one'))
    .then(() => order.push('one'));
  await Promise.all([crowd, one]);
  t.strictSame(order, ['one', 'crowd']);
  t.ok(batches.every((size) => size <= 4));
});

t.test('work that nobody waits for comes behind what somebody does, and gets on', async (t) => {
  const { crew: made } = crew(t, { maxQueued: 400 });
  const order: string[] = [];
  const priority = 'batch';
  const some = { texts: texts(200), truncate: true };
  const ingest = made.embed(KEY, { ...some, priority }, call()).then(() => order.push('ingest'));
  const more = made.embed(KEY, { ...some, priority }, call()).then(() => order.push('more'));
  t.throws(() => made.embed(KEY, { ...some, priority }, call()), { code: 'RESOURCE_EXHAUSTED' });
  const question = { texts: texts(100), truncate: true };
  const asked = made.embed(KEY, question, call()).then(() => order.push('question'));
  await asked;
  t.strictSame(order, ['question'], 'of the same plugin, with its own room in the queue');
  let isOver = false;
  const crowd = Array.from({ length: 8 }, async () => {
    while (!isOver) await made.embed(KEY, { texts: ['a', 'b'], truncate: true }, call());
  });
  await Promise.all([ingest, more]);
  isOver = true;
  await Promise.all(crowd);
  t.strictSame(order, ['question', 'ingest', 'more'], 'whatever else is asked all the time');
});

t.test('what comes in company is what comes alone', async (t) => {
  const { crew: made } = crew(t, { maxBatch: 32 });
  const all = ['short', 'a text that is longer than the others, by many a word', '', 'Ünïcode ✓'];
  const together = await made.embed(KEY, { texts: all, truncate: true }, call());
  for (const [row, text] of all.entries()) {
    const alone: Embedded = await made.embed(KEY, { texts: [text], truncate: true }, call());
    const part = together.vectors.subarray(row * 512, (row + 1) * 512);
    const likeness = part.reduce((sum, value, at) => sum + value * (alone.vectors[at] ?? 0), 0);
    t.ok(Math.abs(likeness - 1) < 1e-4, JSON.stringify(text));
  }
});

t.test('a full queue refuses with a time, and takes again what fits', async (t) => {
  const { crew: made } = crew(t);
  const running = made.embed(KEY, { texts: texts(64), truncate: true }, call());
  const refused = (): unknown => made.embed(KEY, { texts: texts(60), truncate: true }, call());
  t.throws(refused, { code: 'RESOURCE_EXHAUSTED', retryAfterMs: Number });
  await running;
  t.equal(made.queued, 0);
  t.equal(
    (await made.embed(KEY, { texts: texts(60), truncate: true }, call())).vectors.length,
    60 * 512,
  );
});

t.test('a deadline and a caller that leaves take what waits out of the queue', async (t) => {
  const { crew: made } = crew(t);
  await made.embed(KEY, { texts: ['loaded'], truncate: true }, call());
  const running = made.embed(KEY, { texts: texts(40), truncate: true }, call('busy'));
  const gone = call('gone');
  const left = made.embed(KEY, { texts: texts(8), truncate: true }, gone);
  gone.leave();
  await t.rejects(left, { code: 'CANCELLED' });
  await t.rejects(made.embed(KEY, { texts: texts(8), truncate: true }, call('late', 1)), {
    code: 'DEADLINE_EXCEEDED',
  });
  await running;
  t.equal(made.queued, 0);
});

t.test('what a worker took with it is done once more, and then fails as retryable', async (t) => {
  const { crew: made, lanes, lost } = crew(t, { maxBatch: 32 });
  await made.embed(KEY, { texts: ['loaded'], truncate: true }, call());
  const survives = made.embed(KEY, { texts: texts(32), truncate: true }, call());
  lanes[0]?.end();
  t.equal((await survives).vectors.length, 32 * 512);
  t.equal(lost.length, 1);
  const fails = made.embed(KEY, { texts: texts(32), truncate: true }, call());
  lanes[1]?.end();
  const again = setInterval(() => lanes.at(-1)?.end(), 20);
  await t.rejects(fails, { code: 'UNAVAILABLE' });
  clearInterval(again);
  t.equal(
    (await made.embed(KEY, { texts: ['back'], truncate: true }, call())).vectors.length,
    512,
    'it goes on',
  );
});

t.test(
  'where there is room for one copy alone, others wait for it, and the bound holds',
  async (t) => {
    const most = 40 << 20;
    const { engine: made } = engine(t, { workers: 2, memoryBytes: most });
    const ask = (model: string) =>
      made.embed({ model, texts: texts(20), truncate: true }, call(model));
    await Promise.all([ask('use-lite'), ask('use-lite')]);
    const held: number[] = [];
    const watch = setInterval(() => held.push(made.memoryBytes), 5);
    await Promise.all([1, 2, 3, 4].map(() => ask('use-lite')));
    clearInterval(watch);
    t.ok(held.every((bytes) => bytes <= most));
  },
);

t.test('generations run beside other work, four at a worker; who leaves makes room', async (t) => {
  const { engine: made } = engine(t);
  const request = {
    model: 'demo-generator',
    prompt: 'river (noun):',
    parameters: { max_tokens: 100, seed: 1 },
  };
  const open = [1, 2, 3, 4].map(() => {
    const caller = call();
    const items = made.generate(request, caller)[Symbol.asyncIterator]();
    return { caller, items };
  });
  await Promise.all(open.map(({ items }) => items.next()));
  const beside = await made.embed({ model: 'use-lite', texts: ['beside'], truncate: true }, call());
  t.equal(beside.dimensions, 512);
  const fifth = made.generate(request, call())[Symbol.asyncIterator]();
  const first = fifth.next();
  open[0]?.caller.leave();
  const [left] = open;
  await t.rejects(async () => left?.items.next(), { code: 'CANCELLED' });
  t.match(await first, { done: false, value: { delta: { content: String } } });
  await Promise.all([...open.slice(1).map(({ items }) => items.return?.()), fifth.return?.()]);
});

t.test('for a model without room, the one that was unused longest goes', async (t) => {
  const { engine: made } = engine(t, { memoryBytes: 40 << 20 });
  const ready = async () =>
    (await made.models()).filter(({ state }) => state === 'ready').map(({ id }) => id);
  await made.embed({ model: 'use-lite', texts: ['a'], truncate: true }, call());
  t.strictSame(await ready(), ['use-lite']);
  await made.embed({ model: 'use-lite-q8', texts: ['a'], truncate: true }, call());
  t.strictSame(await ready(), ['use-lite-q8']);
  t.ok(made.memoryBytes <= 40 << 20);
  const small = engine(t, { memoryBytes: 1 << 20 });
  await t.rejects(small.engine.embed({ model: 'use-lite', texts: ['a'], truncate: true }, call()), {
    code: 'RESOURCE_EXHAUSTED',
    message: /inference\.memory_mib/,
  });
});

t.test(
  'a model that cannot be loaded says why, waits, and is tried again when told to',
  async (t) => {
    const { engine: made, notices } = engine(t, { device: 'cuda' });
    const embed = () => made.embed({ model: 'use-lite', texts: ['a'], truncate: true }, call());
    await t.rejects(embed(), { code: 'UNAVAILABLE' });
    await t.rejects(embed(), {
      code: 'UNAVAILABLE',
      message: /cannot be loaded/,
      retryAfterMs: Number,
    });
    t.match(await made.find('use-lite'), { state: 'failed', reason: /cuda/i });
    t.equal(notices.length, 1, 'said once while it waits');
    await t.rejects(made.load('use-lite', undefined, call()), { code: 'UNAVAILABLE' });
  },
);

t.test(
  'a caller who leaves while the model is loaded keeps no place for a generation',
  async (t) => {
    const gates: (() => void)[] = [];
    const prepare = () => new Promise<void>((resolve) => gates.push(resolve));
    const { crew: one } = crew(t, { prepare });
    for (let at = 0; at < 8; at += 1) {
      const asked = call();
      const placed = one.place(KEY, asked);
      asked.leave();
      await t.rejects(placed, { code: 'CANCELLED' });
      gates.shift()?.();
      await new Promise((resolve) => setImmediate(resolve));
    }
    const placed = one.place(KEY, call('p', 5000));
    gates.shift()?.();
    (await placed).release();
  },
);
