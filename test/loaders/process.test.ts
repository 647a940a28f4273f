/** The process of an untrusted plugin: what it may say, what becomes of its calls, what surrounds it. */
import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { DEFAULT_LIMITS } from '@noa/sdk/host';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import type { CallCost, LogLevel, Runtime, RuntimeCall } from '../../host/kernel/loader.ts';
import { encode, FrameError, FrameReader, KIND } from '../../host/loaders/process/frames.ts';
import { GuestProcess } from '../../host/loaders/process/guest-process.ts';
import {
  createProcessLoader,
  type ProcessLoaderOptions,
} from '../../host/loaders/process/loader.ts';
import {
  readFailure,
  readHarm,
  readLevel,
  readLine,
  readRequestHead,
  readText,
  readUsage,
} from '../../host/loaders/process/replies.ts';
import { IsolatedRuntime } from '../../host/loaders/process/runtime.ts';
import { planWalls } from '../../host/loaders/process/walls.ts';
import { call, hanging, load, refusal, request } from './sandbox.ts';

t.setTimeout(120_000);
const linux = process.platform === 'linux';
const root = process.getuid?.() === 0;

const bounds = { headBytes: 100, bodyBytes: 1000 };

/** The bytes in chunks that end at these places. */
function chunks(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length];
  const sorted = places.toSorted((a, b) => a - b);
  return sorted.slice(1).map((end, n) => bytes.subarray(sorted[n], end));
}

t.test('frames arrive as they were sent, however they are cut', (t) => {
  const frame = fc.record({
    kind: fc.nat(255),
    id: fc.nat({ max: 2 ** 48 - 1 }),
    head: fc.string({ unit: 'grapheme', maxLength: 20 }).filter((x) => Buffer.byteLength(x) <= 100),
    body: fc.uint8Array({ maxLength: 1000 }),
  });
  fc.assert(
    fc.property(fc.array(frame), fc.array(fc.nat(), { maxLength: 30 }), (frames, cuts) => {
      const sent = Buffer.concat(frames.map((f) => encode(f.kind, f.id, f.head, f.body)));
      const reader = new FrameReader(bounds);
      const read = chunks(sent, cuts).flatMap((chunk) =>
        Array.from(reader.read(chunk), (f) => ({ ...f, body: Uint8Array.from(f.body) })),
      );
      return JSON.stringify(read) === JSON.stringify(frames);
    }),
    { numRuns: 500 },
  );
  t.end();
});

t.test('any bytes are frames within the bounds, or a broken protocol', (t) => {
  const spoilt = fc
    .tuple(fc.uint8Array({ maxLength: 300 }), fc.nat(40), fc.nat(255))
    .map(([body, at, byte]) => {
      const bytes = encode(KIND.done, 1, 'head', body);
      bytes[at % bytes.length] = byte;
      return bytes;
    });
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 3000 }).map((array) => Buffer.from(array)),
    fc.array(spoilt, { maxLength: 10 }).map((list) => Buffer.concat(list)),
  );
  fc.assert(
    fc.property(bytes, fc.array(fc.nat(), { maxLength: 20 }), (all, cuts) => {
      const reader = new FrameReader(bounds);
      try {
        for (const chunk of chunks(all, cuts)) {
          for (const { head, body } of reader.read(chunk)) {
            if (head.length > bounds.headBytes || body.length > bounds.bodyBytes) return false;
          }
        }
      } catch (error) {
        return error instanceof FrameError;
      }
      return true;
    }),
    { numRuns: 2000 },
  );

  const text = fc.oneof(fc.string({ unit: 'binary' }), fc.json(), fc.constant('{"code":"X"}'));
  const readers = [readFailure, readText, readLine].map(
    (read) => (x: string) => read(Buffer.from(x)),
  );
  fc.assert(
    fc.property(text, (value) =>
      [...readers, readLevel, readUsage, readHarm, readRequestHead].every((read) => {
        try {
          return read(value) !== undefined;
        } catch (error) {
          return error instanceof FrameError;
        }
      }),
    ),
    { numRuns: 1000 },
  );
  t.end();
});

t.test('errors of a process are cut to what a plugin may say', (t) => {
  const failure = (body: unknown) => readFailure(Buffer.from(JSON.stringify(body)));
  t.match(failure({ code: 'NOT_FOUND', message: 'no\u001b[2J\nnote', details: { by: 'x' } }), {
    code: 'NOT_FOUND',
    message: 'no\\u001b[2J\\nnote',
    details: { by: 'x' },
  });
  for (const code of ['UNAUTHENTICATED', 'INTERNAL', 'PLUGIN_QUARANTINED', '__proto__', 'X']) {
    t.equal(failure({ code, message: 'm' }).code, 'PLUGIN_TRAP', code);
  }
  t.equal(
    failure({ code: 'CONFLICT', message: 'x'.repeat(9000) })
      .message.slice(0, 4098)
      .at(-1),
    ' ',
  );
  t.match(
    failure({ code: 'CONFLICT', message: 'm', details: 'x'.repeat(20_000) }).details,
    /left out/,
  );
  const retry = (retryAfterMs: unknown): unknown =>
    failure({ code: 'UNAVAILABLE', message: 'm', retryAfterMs }).retryAfterMs;
  t.same([retry(1e9), retry(1.2), retry(-1), retry('5')], [3_600_000, 2, undefined, undefined]);
  t.end();
});

interface Taken {
  readonly guest: GuestProcess;
  readonly reasons: string[];
  readonly lines: (readonly [LogLevel, string])[];
  readonly harms: string[];
}

/** A process in the hands of its plugin, past its load. */
async function takenOver(t: Test, attack: string): Promise<Taken> {
  const [reasons, lines, harms]: [string[], (readonly [LogLevel, string])[], string[]] = [
    [],
    [],
    [],
  ];
  const guest = new GuestProcess({
    plugin: 'kit',
    command: [
      process.execPath,
      fileURLToPath(new URL('./hostile-process.ts', import.meta.url)),
      attack,
    ],
    mayRunMs: 0,
    requestBytes: 1000,
    replyBytes: 1000,
    outputBytes: 1000,
    listener: { log: (...line) => lines.push(line), harmed: (what) => harms.push(what) },
    onEnd: (reason) => reasons.push(reason),
  });
  t.teardown(() => guest.stop(new Error('the test is over') as never));
  await guest.ask(KIND.load, '{}', new Uint8Array(), 20_000, 'did not start');
  return { guest, reasons, lines, harms };
}

const never = new AbortController().signal;

function ask(guest: GuestProcess, ms = 5000, invoke?: RuntimeCall['invoke']): Promise<string> {
  const nothing = (): Promise<unknown> => Promise.reject(new Error('must not be reached'));
  const deadline = Date.now() + ms;
  return guest.call({
    export: 'x',
    input: '1',
    deadline,
    signal: never,
    invoke: invoke ?? nothing,
  });
}

t.test(
  'a process that breaks the protocol is ended, and its calls fail as the plugin’s',
  async (t) => {
    const attacks: readonly (readonly [name: string, said: RegExp])[] = [
      ['garbage', /sent a frame of 2071690107 bytes/],
      ['huge frame', /sent a frame of 4294967295 bytes/],
      ['long output', /sent an output of 2000 bytes/],
      ['long error', /sent a frame of 300011 bytes/],
      ['unknown id', /sent an answer to what was not asked/],
      ['wrong text', /not UTF-8/],
      ['wrong error', /sent a wrong error/],
      ['unknown kind', /unknown kind 99/],
      ['host kind', /unknown kind 3/],
      ['wrong number', /wrong number/],
      ['wrong level', /unknown log level/],
      ['wrong usage', /wrong usage/],
      ['wrong harm', /unknown harm/],
      ['request flood', /too many capability requests/],
      ['log flood', /over 20000 frames a second/],
      ['usage flood', /over 20000 frames a second/],
      ['stderr flood', /over 1048576 bytes a second on stderr/],
    ];
    for (const [attack, said] of attacks) {
      const { guest, reasons, harms, lines } = await takenOver(t, attack);
      const error = await refusal(ask(guest, 8000, () => new Promise(() => undefined)));
      t.match(error, { code: 'PLUGIN_TRAP', message: /broke the protocol and was ended/ }, attack);
      await guest.ended;
      t.match(reasons, [said], attack);
      t.same(harms, ['crashed'], attack);
      t.ok(lines.length <= 2004, `${lines.length} lines`);
      t.equal((await refusal(ask(guest))).code, 'PLUGIN_TRAP', 'and nothing more is asked of it');
    }
  },
);

t.test('an answer reaches its own call, once', async (t) => {
  const twice = await takenOver(t, 'answer twice');
  t.equal(await ask(twice.guest), 'once');
  await twice.guest.ended;
  t.match(twice.reasons, [/an answer to what was not asked/]);

  const late = await takenOver(t, 'late answer');
  t.equal((await refusal(ask(late.guest, 100))).code, 'DEADLINE_EXCEEDED');
  const answers = [1, 2, 3].map(() => ask(late.guest));
  t.same(await Promise.all(answers), ['of its own', 'of its own', 'of its own']);
  await delay(400);
  t.equal(await ask(late.guest), 'of its own', 'and the late one was taken back in time');

  const claims = await takenOver(t, 'claims of the host');
  t.match(await refusal(ask(claims.guest)), { code: 'PLUGIN_TRAP', message: 'a\\u001b[2Jb' });
});

t.test('a process that stops answering is ended soon after the deadline', async (t) => {
  const { guest, reasons, harms } = await takenOver(t, 'silence');
  const start = performance.now();
  t.equal((await refusal(ask(guest, 200))).code, 'DEADLINE_EXCEEDED');
  t.ok(performance.now() - start < 1000, 'the caller hears at the deadline');
  t.equal((await refusal(ask(guest, 20_000))).code, 'UNAVAILABLE', 'others fall with it');
  const ms = performance.now() - start;
  t.ok(ms > 2000 && ms < 8000, `after ${ms} ms`);
  t.match(reasons, [/did not end a call that was over/]);
  t.same(harms, ['overran']);
});

t.test('a process that ends takes its calls along, each with an error to retry', async (t) => {
  for (const [attack, said, harm] of [
    ['closed channel', /closed its channel/, []],
    ['exit', /ended with status 7/, ['crashed']],
    ['crash', /got SIGABRT/, ['crashed']],
    ['noise', /status 1; it said: .*\\u001b\[31mred\\nlines/, ['crashed']],
  ] as const) {
    const { guest, reasons, harms } = await takenOver(t, attack);
    t.match(await refusal(ask(guest)), { code: 'UNAVAILABLE', retryAfterMs: 50 }, attack);
    await guest.ended;
    t.match(reasons, [said], attack);
    t.ok((reasons[0]?.length ?? 0) < 5000, 'what it said is cut');
    t.same(harms, harm, attack);
  }
});

function isolated(t: Test, options: ProcessLoaderOptions = {}) {
  const made = createProcessLoader(options);
  t.teardown(() => made.close());
  return made;
}

function pidOf(runtime: Runtime): number {
  if (!(runtime instanceof IsolatedRuntime) || runtime.pid === undefined) {
    throw new Error('the plugin has no process');
  }
  return runtime.pid;
}

async function gone(pid: number): Promise<boolean> {
  for (let n = 0; n < 100; n += 1) {
    if (linux ? !existsSync(`/proc/${pid}`) : !alive(pid)) return true;
    await delay(50);
  }
  return false;
}

function alive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

t.test('kill -9 in mid-call costs that call alone, and the next one works', async (t) => {
  const loader = isolated(t);
  const [victim, bystander] = await Promise.all([load(loader), load(loader, { name: 'other' })]);
  t.not(pidOf(victim), pidOf(bystander), 'a process each');
  const [work, beside] = [hanging(), hanging()];
  const running = refusal(call(victim, 'ask', request(1), { invoke: work.invoke }));
  const other = call(bystander, 'ask', request(1), { invoke: beside.invoke });
  await Promise.all([work.called, beside.called]);
  process.kill(pidOf(victim), 'SIGKILL');
  t.match(await running, { code: 'UNAVAILABLE', retryAfterMs: 50 });
  t.match(await work.aborted, { code: 'UNAVAILABLE' }, 'the work behind it is aborted');
  beside.answer('undisturbed');
  t.same(JSON.parse(await other), { ok: true, value: 'undisturbed' });
  t.same(victim.stats(), { instances: 0, memoryBytes: 0 });

  const again = await Promise.all([1, 2, 3].map((n) => call(victim, 'echo', String(n))));
  t.same(again, ['1', '2', '3'], 'one new process serves them all');
  process.kill(pidOf(victim), 'SIGKILL');
  await gone(pidOf(victim));
  // Until the host has noticed.
  for (let n = 0; n < 250 && victim.stats().instances > 0; n += 1) await delay(20);
  const paused = await refusal(call(victim, 'echo', '4'));
  t.match(paused, { code: 'UNAVAILABLE', message: /keeps ending/, retryAfterMs: Number });
  await delay(paused.retryAfterMs);
  t.equal(await call(victim, 'echo', '5'), '5', 'after the pause it is tried again');
});

t.test('what a call has cost is told, also of one that was given up', async (t) => {
  const runtime = await load(isolated(t));
  const costs: CallCost[] = [];
  const spent = (cost: CallCost): void => void costs.push(cost);
  const base = { input: request(1), signal: never, spent };
  const invoke = (): Promise<unknown> => Promise.resolve(costs.length);
  const deadline = Date.now() + 5000;
  const answer = await runtime.call({ ...base, export: 'ask', deadline, invoke });
  t.same(JSON.parse(answer), { ok: true, value: 1 }, 'before the request');
  t.ok(costs.length >= 2, 'and at the end');
  t.ok((costs.at(-1)?.fuel ?? 0) > (costs[0]?.fuel ?? NaN), 'which has cost more');

  costs.length = 0;
  const work = hanging();
  const late = { ...base, export: 'ask', deadline: Date.now() + 100, invoke: work.invoke };
  t.equal((await refusal(runtime.call(late))).code, 'DEADLINE_EXCEEDED');
  await delay(500);
  t.ok(costs.length >= 2, 'a moment after its answer');
});

t.test('a stopped process is replaced once its call is over', async (t) => {
  const runtime = await load(isolated(t));
  const pid = pidOf(runtime);
  process.kill(pid, 'SIGSTOP');
  t.equal((await refusal(call(runtime, 'echo', '1', { ms: 100 }))).code, 'DEADLINE_EXCEEDED');
  t.ok(await gone(pid), 'it is ended');
  t.equal(await call(runtime, 'echo', '2'), '2');
});

t.test('a process without calls is ended, and made again for the next one', async (t) => {
  const loader = isolated(t, { idleProcessMs: 300 });
  const runtime = await load(loader);
  const pid = pidOf(runtime);
  const work = hanging();
  const waiting = call(runtime, 'ask', request(1), { invoke: work.invoke });
  await delay(900);
  t.notOk(await Promise.race([gone(pid), delay(10)]), 'not while a call waits');
  work.answer(1);
  await waiting;
  t.ok(await gone(pid));
  t.equal(await call(runtime, 'echo', '1'), '1');

  const few = isolated(t, { processes: 1 });
  await load(few);
  t.match(await refusal(load(few, { name: 'more' })), { code: 'RESOURCE_EXHAUSTED' });
});

t.test('a process dies with its host and inherits nothing from it', { skip: !linux }, async (t) => {
  const script = `
    import { createProcessLoader } from '../../host/loaders/process/loader.ts';
    import { call, load } from './sandbox.ts';
    const runtime = await load(createProcessLoader());
    await call(runtime, 'echo', '1');
    console.log(runtime.pid);
    setInterval(() => undefined, 1000);
  `;
  const args = ['-c', 'exec 7</etc/passwd; exec "$0" --input-type=module -e "$1"'];
  const host = spawn('/bin/sh', [...args, process.execPath, script], {
    cwd: import.meta.dirname,
    env: { ...process.env, SECRET: 'of the host' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => host.kill('SIGKILL'));
  const pid = Number(await new Promise((done) => host.stdout.once('data', done)));
  t.ok(alive(pid));
  t.equal(readFileSync(`/proc/${pid}/environ`, 'utf8'), '', 'an empty environment');
  const files = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  t.notOk(files.includes('/etc/passwd'), 'no descriptor that the host was started with');
  t.equal(files.filter((file) => file.startsWith('socket:')).length, 2, 'the channel and stderr');
  host.kill('SIGKILL');
  t.ok(await gone(pid));
});

t.test('the walls around a process hold for whatever runs in it', { skip: !linux }, async (t) => {
  const runtime = await load(isolated(t));
  const status = readFileSync(`/proc/${pidOf(runtime)}/status`, 'utf8');
  const field = (name: string) => new RegExp(`${name}:\\s+(\\S+)`).exec(status)?.[1];
  t.equal(field('NoNewPrivs'), '1');
  t.match(field('CapEff'), /^0+$/);
  t.match(field('CapBnd'), root ? /^0+$/ : /./);
  if (root) t.ok(Number(field('Uid')) >= 61_184, 'a user of its own');
  t.equal(readFileSync(`/proc/${pidOf(runtime)}/oom_score_adj`, 'utf8'), '1000\n', 'out first');

  const folder = mkdtempSync(join(tmpdir(), 'noa-walls-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(join(folder, 'key'), 'of the host');
  const walls = await planWalls([folder]);
  const command = walls.command([], DEFAULT_LIMITS);
  const prefix = command.slice(0, command.indexOf(process.execPath));
  const within = (program: string, ...args: string[]): string => {
    const [first = program, ...rest] = [...prefix, program, ...args];
    return execFileSync(first, rest, { env: {}, cwd: '/', encoding: 'utf8', stdio: 'pipe' });
  };
  const sh = (line: string): string => within('/bin/sh', '-c', `{ ${line}; } 2>&1 || true`).trim();
  t.match(sh(`cat ${folder}/key`), /denied|no such/i, 'nothing of the host’s is seen');
  const open = mkdtempSync(join(tmpdir(), 'noa-open-'));
  t.teardown(() => rmSync(open, { recursive: true, force: true }));
  chmodSync(open, 0o777);
  t.throws(() => sh(`echo x > ${open}/x`), 'the kernel ends who writes a file');
  t.equal(readFileSync(join(open, 'x'), 'utf8'), '');
  t.equal(sh('ulimit -f; ulimit -c; ulimit -d; ulimit -n'), '0\n0\n6291456\n256');
  t.match(sh('kill -0 1'), root ? /not permitted/i : /./, 'no signal to others');
  const skip = walls.missing.length > 0 && walls.missing.join('; ');
  t.test('a network of its own, whose loopback is down', { skip }, async (t) => {
    t.same(sh('tail -n +3 /proc/net/dev').match(/\w+(?=:)/g), ['lo']);
    const connect = `require('net').connect(9, '127.0.0.1').on('error', (e) => console.log(e.code))`;
    t.match(within(process.execPath, '-e', connect), /ENETUNREACH/);
  });
});
