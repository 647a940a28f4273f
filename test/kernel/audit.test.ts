import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import t from 'tap';
import {
  Audit,
  type AuditEvent,
  type AuditRecord,
  type AuditSink,
  type ChainHead,
  verifyRecords,
} from '../../host/kernel/audit.ts';

/** Keeps records in memory and fails on command, before or after it has kept them. */
class Sink implements AuditSink<AuditRecord[]> {
  records: AuditRecord[] = [];
  failBefore = 0;
  failAfter = 0;

  head(chain: string): Promise<ChainHead | undefined> {
    return Promise.resolve(this.records.findLast((record) => record.chain === chain));
  }

  append(records: readonly AuditRecord[]): Promise<void> {
    if (this.failBefore-- > 0) return Promise.reject(new Error('the disk is away'));
    for (const record of records) {
      if (this.records.some(({ chain, seq }) => chain === record.chain && seq === record.seq)) {
        return Promise.reject(new Error('duplicate'));
      }
      this.records.push(structuredClone(record));
    }
    if (this.failAfter-- > 0) return Promise.reject(new Error('the answer was lost'));
    return Promise.resolve();
  }

  appendIn(tx: AuditRecord[], records: readonly AuditRecord[]): Promise<void> {
    tx.push(...records);
    return Promise.resolve();
  }

  async transaction<T>(work: (tx: AuditRecord[]) => Promise<T>): Promise<T> {
    const tx: AuditRecord[] = [];
    const result = await work(tx);
    await this.append(tx);
    return result;
  }
}

const event = (details: string): AuditEvent => ({
  kind: 'capability.use',
  actor: 'plugin:notes',
  plugin: 'notes',
  capability: 'cache',
  operation: 'get',
  resources: ['notes:\u0000\ud800'],
  outcome: 'ok',
  code: null,
  details: { details, nested: [{ b: 1, a: -0.5e-7 }] },
});

function open(sink: Sink, capacity = 1000) {
  const errors: unknown[] = [];
  const audit = new Audit<AuditRecord[]>({
    chain: 'host-1',
    sink,
    now: () => Date.parse('2026-01-01T00:00:00Z'),
    flushMs: 5,
    capacity,
    onError: (error) => errors.push(error),
  });
  return { audit, errors };
}

t.test('uses are written in batches, in order, as one chain that verifies', async (t) => {
  const sink = new Sink();
  const { audit } = open(sink);
  for (let i = 0; i < 1200; i++) audit.record(event(String(i)));
  t.equal(sink.records.length, 0, 'nobody waited for the disk');
  await audit.close();
  t.equal(sink.records.length, 1200);
  t.match(await verifyRecords(sink.records), { ok: true, records: 1200, chains: [audit.head] });
});

t.test('a later host goes on with the chain where the earlier one left it', async (t) => {
  const sink = new Sink();
  for (const run of ['first', 'second']) {
    const { audit } = open(sink);
    audit.record(event(run));
    await audit.close();
  }
  t.match(await verifyRecords(sink.records), { ok: true, records: 2 });
});

t.test('what waits is written by itself within the flush time', async (t) => {
  const sink = new Sink();
  const { audit } = open(sink);
  audit.record(event('x'));
  const until = Date.now() + 5000;
  while (sink.records.length === 0 && Date.now() < until) await sleep(5);
  t.equal(sink.records.length, 1);
  await audit.close();
});

t.test(
  'a change that fails leaves no record, one that succeeds is durable when it is answered',
  async (t) => {
    const sink = new Sink();
    const { audit } = open(sink);
    await t.rejects(
      audit.change((_tx, note) => {
        note(event('never'));
        return Promise.reject(new Error('refused'));
      }),
      { message: 'refused' },
    );
    t.equal(sink.records.length, 0);
    await audit.change((_tx, note) => Promise.resolve(note(event('done'))));
    t.equal(sink.records.length, 1);
  },
);

t.test(
  'nothing is lost or written twice when writes fail before or after they were made',
  async (t) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom('use', 'change', 'flush', 'failBefore', 'failAfter'), {
          maxLength: 30,
        }),
        async (steps) => {
          const sink = new Sink();
          const { audit } = open(sink);
          const expected: string[] = [];
          for (const [index, step] of steps.entries()) {
            const name = `${step}-${index}`;
            if (step === 'use') {
              audit.record(event(name));
              expected.push(name);
            } else if (step === 'change') {
              const failing = sink.failBefore > 0;
              await audit
                .change((_tx, note) => Promise.resolve(note(event(name))))
                .catch(() => undefined);
              if (!failing) expected.push(name);
            } else if (step === 'flush') await audit.flush().catch(() => undefined);
            else sink[step] = 1;
          }
          sink.failBefore = 0;
          sink.failAfter = 0;
          await audit.close();
          const result = await verifyRecords(sink.records);
          const kept = sink.records.map(({ details }) => (details as { details: string }).details);
          t.equal(result.problem, undefined);
          t.strictSame(kept.toSorted(), expected.toSorted());
        },
      ),
      { numRuns: 200 },
    );
  },
);

t.test('with a full queue further uses are refused, not dropped', async (t) => {
  const sink = new Sink();
  const { audit } = open(sink, 3);
  for (let i = 0; i < 3; i++) {
    audit.admit();
    audit.record(event(String(i)));
  }
  t.throws(() => audit.admit(), { code: 'UNAVAILABLE' });
  await audit.flush();
  audit.admit();
  t.equal(sink.records.length, 4);
  t.match(sink.records[3], { kind: 'audit.overflow', details: { refused: 1 } }, 'and counted');
  for (let i = 0; i < 10; i++) audit.record(event(`beyond ${i}`));
  await audit.close();
  t.match(sink.records.at(-1), { kind: 'audit.overflow', details: { refused: 4 } });
  t.match(await verifyRecords(sink.records), { ok: true, records: 11 });
});

t.test('every change of a stored record is found: field, order, gap, insertion', async (t) => {
  const sink = new Sink();
  const { audit } = open(sink);
  for (let i = 0; i < 6; i++) audit.record(event(String(i)));
  await audit.close();
  const [first, second, third] = sink.records;
  if (!first || !second || !third) throw new Error('records are missing');
  const rest = sink.records.slice(3);
  const cases: Record<string, AuditRecord[]> = {
    'a changed actor': [first, { ...second, actor: 'admin' }, third, ...rest],
    'a changed outcome': [{ ...first, outcome: 'denied' }, second, third, ...rest],
    'changed details': [first, { ...second, details: {} }, third, ...rest],
    'a missing record': [first, third, ...rest],
    'a missing start': [second, third, ...rest],
    'swapped records': [first, third, second, ...rest],
    'a doubled record': [first, second, second, third, ...rest],
    'another hash': [{ ...first, hash: second.hash }, second, third, ...rest],
  };
  for (const [name, records] of Object.entries(cases)) {
    t.match(await verifyRecords(records), { ok: false, problem: /record/ }, name);
  }
  const stored = JSON.parse(JSON.stringify(sink.records)) as AuditRecord[];
  t.match(await verifyRecords(stored), { ok: true, records: 6 }, 'JSON keeps what was hashed');
});
