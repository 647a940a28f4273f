/** What every store of vectors does, asked through the driver as the door asks it. */
import {
  compileSchema,
  type Driver,
  type DriverCall,
  type Json,
  NoaError,
  type Span,
} from '@noa/sdk/host';
import fc from 'fast-check';
import type { Test } from 'tap';
import { vector } from '../../capabilities/vector/capability.ts';
import { type Filter, matches } from '../../capabilities/vector/filter.ts';

const tables = Object.entries(vector.operations);
const CHECKS = new Map(tables.map(([name, { input }]) => [name, compileSchema(input)]));
const ANSWERS = new Map(tables.map(([name, { output }]) => [name, compileSchema(output)]));

export type Invoke = (
  operation: string,
  input: object,
  plugin?: string,
  part?: Partial<DriverCall>,
) => Promise<Json>;

export function invoking(driver: Driver): Invoke {
  return async (operation, input, plugin = 'tester', part = {}) => {
    const given = input as Json;
    const broken = CHECKS.get(operation)?.(given) ?? [];
    if (broken.length > 0) throw new NoaError('INVALID_ARGUMENT', JSON.stringify(broken));
    const { signal } = new AbortController();
    const call = { plugin, resources: ['*'], signal, deadline: Date.now() + 30_000 };
    const output = (await driver.invoke(operation, given, {
      ...call,
      chain: undefined,
      ...part,
    })) as Json;
    const wrong = ANSWERS.get(operation)?.(output) ?? [];
    if (wrong.length > 0) throw new TypeError(`${operation} answered ${JSON.stringify(wrong)}`);
    return output;
  };
}

export const base64 = (...rows: readonly number[][]): string =>
  Buffer.from(Float32Array.from(rows.flat()).buffer).toString('base64');

type Hits = { hits: { id: string; score: number; payload?: unknown }[]; vectors?: Rows };
type Rows = { name: string; base64: string }[];
type Scrolled = { points: { id: string; payload: unknown }[]; next: string | null; vectors?: Rows };

const FORM = { vectors: { default: { dimensions: 3, distance: 'cosine' } }, sparse: ['words'] };

/** `fresh` answers the name of a plugin that has nothing yet. */
export function vectorContract(t: Test, invoke: Invoke, fresh: () => string): void {
  const refused = async (t: Test, work: Promise<unknown>, code: string, words: RegExp) => {
    const error: unknown = await work.then(
      () => new Error('it was answered'),
      (reason: unknown) => reason,
    );
    t.ok(error instanceof NoaError, String(error));
    t.match(error, { code, message: words });
  };
  const filled = async (plugin = fresh()) => {
    await invoke('manage', { action: 'create', collection: 'docs', ...FORM }, plugin);
    const points = [
      { id: 'a', payload: { lang: 'en', year: 2020, tags: ['x', 'y'], at: { page: 1 } } },
      { id: 'b', payload: { lang: 'de', year: 2021, tags: ['y'], text: 'The quick brown fox' } },
      { id: 'ü/ c"\\', payload: { lang: "en' or 1=1 --", year: 2022 } },
    ];
    const sparse = [
      { words: { indices: [5, 1], values: [1, 2] } },
      { words: { indices: [4_294_967_295], values: [0.5] } },
      {},
    ];
    await invoke(
      'upsert',
      {
        collection: 'docs',
        points: points.map((point, i) => ({ ...point, sparse: sparse[i] })),
        vectors: [{ base64: base64([1, 0, 0], [0, 2, 0], [1, 1, 0]) }],
      },
      plugin,
    );
    return plugin;
  };
  const search = async (plugin: string, part: object): Promise<Hits> =>
    (await invoke('search', { collection: 'docs', limit: 10, ...part }, plugin)) as Hits;
  const ids = ({ hits }: Hits): string[] => hits.map(({ id }) => id);

  t.test('the nearest come first, with scores of the cosine', async (t) => {
    const plugin = await filled();
    const vector = { base64: base64([1, 0, 0]) };
    const found = await search(plugin, { vector });
    t.same(ids(found), ['a', 'ü/ c"\\', 'b']);
    const [first, second, third] = found.hits.map(({ score }) => score);
    t.ok(Math.abs((first ?? 0) - 1) < 1e-5 && Math.abs((third ?? 1) - 0) < 1e-5);
    t.ok(Math.abs((second ?? 0) - Math.SQRT1_2) < 1e-5, `${second}`);
    t.match(found.hits[0]?.payload, { lang: 'en', tags: ['x', 'y'], at: { page: 1 } });
    t.same(ids(await search(plugin, { vector, limit: 1, offset: 1 })), ['ü/ c"\\']);
    t.same(ids(await search(plugin, { vector, minScore: 0.5 })), ['a', 'ü/ c"\\']);
    const bare = await search(plugin, { vector, withPayload: false, withVectors: true });
    t.notOk('payload' in (bare.hits[0] ?? {}));
    const rows = Buffer.from(bare.vectors?.[0]?.base64 ?? '', 'base64');
    t.equal(rows.length, 3 * 3 * 4);
    t.ok(Math.abs(rows.readFloatLE(0) - 1) < 1e-5);
  });

  t.test('a call without time is not made, and a traced one is in the trace', async (t) => {
    const plugin = await filled();
    const made: unknown[] = [];
    const span: Span = {
      traceId: '0'.repeat(32),
      spanId: '0'.repeat(16),
      traceparent: '',
      child(name, kind, attributes) {
        made.push([name, kind, attributes]);
        return span;
      },
      rename: () => undefined,
      set: () => undefined,
      end: (error) => void made.push(error ?? 'ok'),
    };
    await invoke('manage', { action: 'list' }, plugin, { span });
    const about = { 'db.operation.name': 'manage', 'db.system.name': /^(embedded|qdrant)$/ };
    t.match(made, [[/^(embedded|qdrant) manage$/, 'client', about], 'ok']);
    const vector = { base64: base64([1, 0, 0]) };
    const search = (signal: AbortSignal) =>
      invoke('search', { collection: 'docs', limit: 1, vector }, plugin, { signal });
    const late = new DOMException('late', 'TimeoutError');
    await refused(t, search(AbortSignal.abort(late)), 'DEADLINE_EXCEEDED', /time is over/);
    await refused(t, search(AbortSignal.abort()), 'CANCELLED', /caller went away/);
    const erase = { collection: 'docs', ids: ['a'] };
    const erased = invoke('delete', erase, plugin, { signal: AbortSignal.abort() });
    await refused(t, erased, 'CANCELLED', /caller went away/);
    t.match(await invoke('manage', { action: 'list' }, plugin), { collections: [{ points: 3 }] });
  });

  t.test('dot and distance are scores too, and higher is better', async (t) => {
    const plugin = fresh();
    const vectors = {
      dot: { dimensions: 2, distance: 'dot' },
      'far-off': { dimensions: 2, distance: 'euclidean' },
    };
    await invoke('manage', { action: 'create', collection: 'docs', vectors }, plugin);
    const rows = base64([1, 0], [3, 4]);
    await invoke(
      'upsert',
      {
        collection: 'docs',
        points: [{ id: 'a' }, { id: 'b' }],
        vectors: [
          { name: 'dot', base64: rows },
          { name: 'far-off', base64: rows },
        ],
      },
      plugin,
    );
    const by = async (name: string) =>
      (await search(plugin, { vector: { name, base64: base64([1, 0]) } })).hits.map(
        ({ id, score }) => [id, Math.round(score * 1000) / 1000],
      );
    t.same(await by('dot'), [
      ['b', 3],
      ['a', 1],
    ]);
    t.same(await by('far-off'), [
      ['a', 0],
      ['b', -4.472],
    ]);
  });

  t.test('sparse vectors are searched by their product', async (t) => {
    const plugin = await filled();
    const sparse = { name: 'words', indices: [1, 4_294_967_295], values: [2, 1] };
    const { hits } = await search(plugin, { sparse });
    t.same(
      hits.map(({ id, score }) => [id, score]),
      [
        ['a', 4],
        ['b', 0.5],
      ],
      'and what shares nothing is no hit',
    );
    const filter = { field: 'lang', eq: 'de' };
    t.same(ids(await search(plugin, { sparse, filter })), ['b']);
  });

  t.test('filters answer what their definition says, whatever they hold', async (t) => {
    const plugin = await filled();
    const vector = { base64: base64([1, 0, 0]) };
    const by = async (filter: object) => ids(await search(plugin, { vector, filter })).toSorted();
    t.same(await by({ field: 'lang', eq: 'en' }), ['a']);
    t.same(await by({ field: 'lang', eq: "en' or 1=1 --" }), ['ü/ c"\\'], 'no text is a query');
    t.same(await by({ field: 'tags', in: ['x', 'z'] }), ['a'], 'of an array any element');
    t.same(await by({ field: 'at.page', lte: 1 }), ['a']);
    t.same(await by({ field: 'text', text: 'fox QUICK' }), ['b']);
    t.same(await by({ not: { field: 'tags', exists: true } }), ['ü/ c"\\']);
    const long = { body: `${'all work and no play '.repeat(200)} makes`, parts: ['quick', 'fox'] };
    const vectors = [{ base64: base64([0, 0, 1]) }];
    const points = [{ id: 'long', payload: long }];
    await invoke('upsert', { collection: 'docs', points, vectors }, plugin);
    t.same(await by({ field: 'body', text: 'makes WORK' }), ['long'], 'of any length');
    t.same(await by({ field: 'body', exists: true }), ['long']);
    t.same(await by({ field: 'parts', text: 'quick fox' }), [], 'words of one text');
    await invoke('delete', { collection: 'docs', ids: ['long'] }, plugin);
    t.same(await by({ field: 'year', gt: 2020, lte: 2022 }), ['b', 'ü/ c"\\']);
    const either = [
      { field: 'lang', ne: 'de' },
      { field: 'year', eq: 2021 },
    ];
    t.same(await by({ or: either }), ['a', 'b', 'ü/ c"\\']);
    t.same(await by({ and: either }), []);
  });

  t.test('a filter of any form on any payload', async (t) => {
    const plugin = fresh();
    const scalar = fc.oneof(
      fc.constantFrom('x', 'y z', "'", '\\"', ''),
      fc.integer({ min: -3, max: 3 }),
      fc.boolean(),
    );
    const inner = fc.dictionary(
      fc.constantFrom('a', 'b'),
      fc.oneof(scalar, fc.array(scalar, { maxLength: 3 })),
    );
    const payload = fc.dictionary(
      fc.constantFrom('a', 'b', 'c d'),
      fc.oneof(scalar, fc.array(scalar, { maxLength: 3 }), inner, fc.constant(null)),
    );
    const field = fc.constantFrom('a', 'b', 'c d', 'a.b', 'b.a', 'none');
    const condition = fc.oneof(
      fc.record({ field, eq: scalar }),
      fc.record({ field, ne: scalar }),
      fc.record({ field, in: fc.array(scalar, { minLength: 1, maxLength: 3 }) }),
      fc.record({ field, exists: fc.boolean() }),
      fc.record({ field, gte: fc.integer({ min: -3, max: 3 }) }),
      fc.record({ field, gt: fc.integer({ min: -3, max: 0 }), lt: fc.integer({ min: 0, max: 3 }) }),
      fc.record({ field, text: fc.constantFrom('x', 'Z y') }),
    );
    const { filter } = fc.letrec((tie) => ({
      filter: fc.oneof(
        { maxDepth: 3 },
        condition,
        fc.record({ and: fc.array(tie('filter'), { minLength: 1, maxLength: 3 }) }),
        fc.record({ or: fc.array(tie('filter'), { minLength: 1, maxLength: 3 }) }),
        fc.record({ not: tie('filter') }),
      ),
    }));
    const payloads = fc.sample(payload, 60);
    await invoke('manage', { action: 'create', collection: 'docs', ...FORM }, plugin);
    const points = payloads.map((each, i) => ({ id: `p${i}`, payload: each as object }));
    const rows = points.map((_, i) => [1, i, 1]);
    await invoke(
      'upsert',
      { collection: 'docs', points, vectors: [{ base64: base64(...rows) }] },
      plugin,
    );
    const vector = { base64: base64([1, 1, 1]) };
    await fc.assert(
      fc.asyncProperty(filter, async (given) => {
        const wanted = points.filter((each) => matches(given as Filter, each.payload as never));
        const found = await search(plugin, {
          vector,
          filter: given,
          limit: 100,
          withPayload: false,
        });
        const expected = wanted
          .map(({ id }) => id)
          .toSorted()
          .join();
        if (ids(found).toSorted().join() !== expected)
          throw new Error(`${ids(found).join()} is not ${expected}`);
      }),
      { numRuns: 60 },
    );
    t.pass();
  });

  t.test('all points are read page by page, and those that pass', async (t) => {
    const plugin = fresh();
    await invoke('manage', { action: 'create', collection: 'docs', ...FORM }, plugin);
    const points = Array.from({ length: 25 }, (_, n) => ({ id: `p${n}`, payload: { n } }));
    const rows = points.map((_, n) => [1, n, 0]);
    await invoke(
      'upsert',
      { collection: 'docs', points, vectors: [{ base64: base64(...rows) }] },
      plugin,
    );
    const all: string[] = [];
    let after: string | null = null;
    do {
      const page: Scrolled = (await invoke(
        'scroll',
        { collection: 'docs', limit: 10, ...(after === null ? {} : { after }) },
        plugin,
      )) as Scrolled;
      all.push(...page.points.map(({ id }) => id));
      after = page.next;
    } while (after !== null);
    t.same(all.toSorted(), points.map(({ id }) => id).toSorted(), 'each once');
    const some = {
      collection: 'docs',
      limit: 100,
      filter: { field: 'n', gte: 20 },
      withVectors: true,
    };
    const { points: five, vectors, next } = (await invoke('scroll', some, plugin)) as Scrolled;
    t.equal(five.length, 5);
    t.equal(next, null);
    t.equal(Buffer.from(vectors?.[0]?.base64 ?? '', 'base64').length, 5 * 3 * 4);
  });

  t.test(
    'a point takes the place of the one with its id; deleting says how many there were',
    async (t) => {
      const plugin = await filled();
      const one = {
        points: [{ id: 'a', payload: { lang: 'fr' } }],
        vectors: [{ base64: base64([0, 0, 1]) }],
      };
      t.same(await invoke('upsert', { collection: 'docs', ...one }, plugin), { upserted: 1 });
      const found = await search(plugin, { vector: { base64: base64([0, 0, 1]) }, limit: 1 });
      t.match(found.hits, [{ id: 'a', payload: { lang: 'fr' } }]);
      t.same(found.hits[0]?.payload, { lang: 'fr' }, 'nothing is left of the one before');
      const sparse = { name: 'words', indices: [1], values: [1] };
      t.same(ids(await search(plugin, { sparse })), []);
      t.same(await invoke('delete', { collection: 'docs', ids: ['a', 'none'] }, plugin), {
        deleted: 1,
      });
      const filter = { field: 'year', gte: 2021 };
      t.same(await invoke('delete', { collection: 'docs', filter }, plugin), { deleted: 2 });
      t.same(ids(await search(plugin, { vector: { base64: base64([1, 0, 0]) } })), []);
    },
  );

  t.test('collections are made, told of and deleted; plugins do not meet', async (t) => {
    const plugin = await filled();
    const manage = (action: string, part: object = {}, who = plugin) =>
      invoke('manage', { action, ...part }, who);
    t.same(await manage('create', { collection: 'docs', ...FORM }), { created: false });
    const other = { vectors: { default: { dimensions: 4, distance: 'cosine' } } };
    const again = manage('create', { collection: 'docs', ...other });
    await refused(t, again, 'CONFLICT', /another form/);
    t.match(await manage('describe', { collection: 'docs' }), {
      collections: [{ collection: 'docs', points: 3, aliases: [], sparse: ['words'] }],
    });
    const stranger = fresh();
    t.same(await manage('list', {}, stranger), { collections: [] });
    const theirs = invoke(
      'search',
      { collection: 'docs', limit: 1, vector: { base64: base64([1, 0, 0]) } },
      stranger,
    );
    await refused(t, theirs, 'NOT_FOUND', /there is no "docs"; there is none/);
    await manage('create', { collection: 'docs', ...other }, stranger);
    t.same(await manage('delete', { collection: 'docs' }, stranger), { deleted: true });
    t.same(await manage('delete', { collection: 'docs' }, stranger), { deleted: false });
    t.match(await manage('list'), { collections: [{ collection: 'docs', points: 3 }] });
    await refused(
      t,
      manage('create', { collection: 'none', vectors: {} }),
      'INVALID_ARGUMENT',
      /at least one/,
    );
  });

  t.test(
    'an alias moves at once: whoever searches meanwhile finds the one or the other',
    async (t) => {
      const plugin = await filled();
      const manage = (action: string, part: object) =>
        invoke('manage', { action, ...part }, plugin);
      await manage('create', { collection: 'docs-2', ...FORM });
      const vectors = [{ base64: base64([1, 0, 0]) }];
      await invoke('upsert', { collection: 'docs-2', points: [{ id: 'new' }], vectors }, plugin);
      await manage('alias', { alias: 'current', collection: 'docs' });
      const vector = { base64: base64([1, 0, 0]) };
      const look = async () =>
        ids(await search(plugin, { collection: 'current', vector, limit: 1 }))[0];
      const seen: (string | undefined)[] = [];
      const reading = (async () => {
        for (let i = 0; i < 40; i += 1) seen.push(await look());
      })();
      await manage('alias', { alias: 'current', collection: 'docs-2' });
      await reading;
      t.ok(
        seen.every((id) => id === 'a' || id === 'new'),
        seen.join(' '),
      );
      t.equal(await look(), 'new');
      const taken = manage('alias', { alias: 'docs', collection: 'docs-2' });
      await refused(t, taken, 'CONFLICT', /docs/);
      await refused(
        t,
        manage('alias', { alias: 'x', collection: 'none' }),
        'NOT_FOUND',
        /no "none"/,
      );
      await manage('delete', { collection: 'docs' });
      t.equal(await look(), 'new', 're-indexed without a gap');
      t.same(await manage('unalias', { alias: 'current' }), { deleted: true });
      await refused(t, look(), 'NOT_FOUND', /no "current"/);
    },
  );

  t.test('what does not fit is refused in words, and changes nothing', async (t) => {
    const plugin = await filled();
    const upsert = (part: object) =>
      invoke('upsert', { collection: 'docs', points: [{ id: 'n' }], ...part }, plugin);
    const wrong = (work: Promise<unknown>, words: RegExp) =>
      refused(t, work, 'INVALID_ARGUMENT', words);
    await wrong(upsert({}), /the vector default is missing/);
    await wrong(
      upsert({ vectors: [{ base64: base64([1, 2]) }] }),
      /2 numbers for 1 points, and each has 3/,
    );
    await wrong(
      upsert({ vectors: [{ base64: base64([NaN, 0, 0]) }] }),
      /the number at 0 is not finite/,
    );
    await wrong(upsert({ vectors: [{ base64: base64([0, Infinity, 0]) }] }), /at 1 is not finite/);
    await wrong(upsert({ vectors: [{ base64: base64([0, 0, 0]) }] }), /all zeros/);
    await wrong(upsert({ vectors: [{ base64: 'AAA' }] }), /no 32-bit floats/);
    const extra = [{ base64: base64([1, 0, 0]) }, { name: 'none', base64: base64([1]) }];
    await wrong(upsert({ vectors: extra }), /has no none/);
    const vectors = [{ base64: base64([1, 0, 0]) }];
    const sparse = { none: { indices: [1], values: [1] } };
    await wrong(upsert({ points: [{ id: 'n', sparse }], vectors }), /has no none; it has words/);
    const uneven = { words: { indices: [1, 2], values: [1] } };
    await wrong(
      upsert({ points: [{ id: 'n', sparse: uneven }], vectors }),
      /2 indices and 1 values/,
    );
    const payload = { text: 'x'.repeat(70_000) };
    await wrong(upsert({ points: [{ id: 'n', payload }], vectors }), /over 65536/);
    await wrong(upsert({ points: [{ id: 'n' }, { id: 'n' }], vectors }), /stands twice/);
    await wrong(search(plugin, { vector: { base64: base64([1, 0]) } }), /has 2 dimensions/);
    await wrong(search(plugin, { vector: { name: 'x', base64: base64([1]) } }), /has no x/);
    await wrong(search(plugin, { sparse: { name: 'x', indices: [1], values: [1] } }), /has no x/);
    const vector = { base64: base64([1, 0, 0]) };
    await wrong(search(plugin, { vector, filter: { field: 'a' } }), /one test/);
    await wrong(search(plugin, { vector, filter: { field: 'a', eq: { $gt: 1 } } }), /filter/);
    const deep = Array.from({ length: 12 }).reduce<object>((not) => ({ not }), {
      field: 'a',
      eq: 1,
    });
    await wrong(search(plugin, { vector, filter: deep }), /deeper/);
    await refused(
      t,
      invoke('scroll', { collection: 'x', limit: 1 }, plugin),
      'NOT_FOUND',
      /there is docs/,
    );
    t.match(await invoke('manage', { action: 'list' }, plugin), { collections: [{ points: 3 }] });
  });
}
