/** The contract of `blob` on a folder: what plugins may name, what lies on the disk, what a kill leaves. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { link, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { compileSchema, covers, type Driver, type Json, NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { blob, canonicalPath, MAX_BLOB_BYTES } from '../../capabilities/blob/capability.ts';
import { openBlobFolder } from '../../capabilities/blob/folder.ts';
import { failure, scratchFolder } from './database.ts';

const FOLDER_MODULE = pathToFileURL(join(import.meta.dirname, '../../capabilities/blob/folder.ts'));
const QUOTA = { maxBytes: 64 << 20, maxCount: 10_000 };
const CHECKS = new Map(
  Object.entries(blob.operations).map(([name, { input }]) => [name, compileSchema(input)]),
);

interface Answers {
  read: { base64: string; size: number; etag: string };
  write: { etag: string; size: number };
  list: {
    entries: { path: string; size: number; etag: string; modifiedAt: string }[];
    next: string | null;
  };
  delete: { deleted: boolean };
}

/** A call as the broker makes it: schema, then what it touches, then the driver. */
async function call<Name extends keyof Answers>(
  driver: Driver,
  operation: Name,
  input: { readonly [name: string]: Json },
  { plugin = 'notes', grant = '*', signal = AbortSignal.timeout(10_000) } = {},
): Promise<Answers[Name]> {
  const broken = CHECKS.get(operation)?.(input) ?? [];
  if (broken.length > 0) throw new NoaError('INVALID_ARGUMENT', JSON.stringify(broken));
  const resources = blob.operations[operation].resources as (input: Json) => string[];
  const lacking = resources(input).find((resource) => !covers(grant, resource));
  if (lacking !== undefined) throw new NoaError('CAPABILITY_DENIED', lacking);
  const deadline = Date.now() + 10_000;
  const frame = { plugin, resources: [grant], signal, deadline, chain: undefined };
  return (await driver.invoke(operation, input, frame)) as Answers[Name];
}

async function opened(t: Test, quota: Partial<typeof QUOTA> = {}) {
  const scratch = await scratchFolder();
  t.teardown(() => rm(scratch, { recursive: true }));
  const folder = join(scratch, 'blobs');
  const warnings: string[] = [];
  const open = () =>
    openBlobFolder({ folder, ...QUOTA, ...quota, warn: (text) => warnings.push(text) });
  return { scratch, folder, warnings, open, driver: await open() };
}

async function textOf(driver: Driver, path: string, plugin = 'notes'): Promise<string> {
  const { base64 } = await call(driver, 'read', { path }, { plugin });
  return Buffer.from(base64, 'base64').toString();
}

/** For the names of assertions: a line of the report is one line whatever is in it. */
function ascii(text: string): string {
  const code = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return text.slice(0, 40).replace(/[^\x20-\x7e]/g, code);
}

function nameOf(path: string): string {
  return createHash('sha256').update(path).digest('hex');
}

const paths = fc
  .array(fc.stringMatching(/^[a-zA-Z0-9é日_][a-zA-Z0-9é日_. -]{0,10}[a-zA-Z0-9_]$/u), {
    minLength: 1,
    maxLength: 4,
  })
  .map((segments) => segments.join('/').normalize('NFC'));

t.test('what is written is read, as a whole and in parts', async (t) => {
  const { driver } = await opened(t);
  await fc.assert(
    fc.asyncProperty(
      paths,
      fc.uint8Array({ maxLength: 300 }),
      fc.nat(320),
      fc.nat(320),
      async (path, bytes, offset, length) => {
        const content = Buffer.from(bytes);
        const written = await call(driver, 'write', { path, base64: content.toString('base64') });
        t.equal(written.size, content.length);
        const whole = await call(driver, 'read', { path });
        t.same(whole, { ...written, base64: content.toString('base64') });
        const part = await call(driver, 'read', { path, offset, length });
        const expected = content.subarray(offset, offset + length).toString('base64');
        t.same(part, { ...written, base64: expected });
      },
    ),
    { numRuns: 60 },
  );
  await call(driver, 'write', { path: 'text', text: 'grüße, 世界' });
  t.equal(await textOf(driver, 'text'), 'grüße, 世界');
  t.match(await failure(call(driver, 'read', { path: 'none' })), { code: 'NOT_FOUND' });
});

t.test('what is no content is refused', async (t) => {
  const { driver } = await opened(t);
  const broken: { [name: string]: Json }[] = [
    { path: 'a' },
    { path: 'a', base64: 'AA==', text: 'x' },
    { path: 'a', base64: 'AA' },
    { path: 'a', base64: '-_8=' },
    { path: 'a', base64: 'AB==' },
    { path: 'a', text: '\ud800' },
    { path: 'a', text: 'x', ifNoneMatch: 'y' },
  ];
  for (const input of broken) {
    const error = await failure(call(driver, 'write', input));
    t.equal(error.code, 'INVALID_ARGUMENT', JSON.stringify(input));
  }
  const largest = Buffer.alloc(MAX_BLOB_BYTES, 7).toString('base64');
  t.ok(Buffer.byteLength(JSON.stringify({ path: 'é'.repeat(256), largest })) + 100 < 1 << 20);
  t.match(await call(driver, 'write', { path: 'a', base64: largest }), { size: MAX_BLOB_BYTES });
  t.equal((await call(driver, 'read', { path: 'a' })).base64, largest);
  const over = { path: 'a', text: 'é'.repeat(MAX_BLOB_BYTES / 2 + 1) };
  t.equal((await failure(call(driver, 'write', over))).code, 'PAYLOAD_TOO_LARGE');
});

t.test('a condition that does not hold changes nothing', async (t) => {
  const { driver } = await opened(t);
  const { etag } = await call(driver, 'write', { path: 'a', text: '1', ifNoneMatch: '*' });
  const again = call(driver, 'write', { path: 'a', text: '2', ifNoneMatch: '*' });
  t.match(await failure(again), { code: 'CONFLICT', message: /there already/ });
  const other = call(driver, 'write', { path: 'a', text: '2', ifMatch: 'x' });
  t.match(await failure(other), { code: 'CONFLICT', message: /its etag is/ });
  const absent = call(driver, 'write', { path: 'b', text: '2', ifMatch: etag });
  t.match(await failure(absent), { code: 'CONFLICT', message: /there is none/ });
  t.equal(await textOf(driver, 'a'), '1');
  const race = await Promise.allSettled(
    Array.from({ length: 20 }, (_, i) =>
      call(driver, 'write', { path: 'a', text: `winner ${i}`, ifMatch: etag }),
    ),
  );
  t.equal(race.filter(({ status }) => status === 'fulfilled').length, 1, 'one of twenty wins');
  const winner = race.findIndex(({ status }) => status === 'fulfilled');
  t.equal(await textOf(driver, 'a'), `winner ${winner}`);
});

t.test('a list is in order of path, in pages, and the same after a restart', async (t) => {
  const { driver, open } = await opened(t);
  const all = Array.from({ length: 25 }, (_, i) => `docs/${String(i).padStart(2, '0')}`);
  await Promise.all(
    [...all, 'Docs/x', 'doc']
      .toReversed()
      .map((path) => call(driver, 'write', { path, text: path })),
  );
  for (const each of [driver, await open()]) {
    const seen: string[] = [];
    let cursor: string | null = null;
    do {
      const page: Answers['list'] = await call(each, 'list', {
        prefix: 'docs/',
        limit: 10,
        ...(cursor === null ? {} : { cursor }),
      });
      for (const { path, size, etag, modifiedAt } of page.entries) {
        seen.push(path);
        t.match(await call(each, 'read', { path }), { size, etag });
        t.ok(Math.abs(Date.now() - Date.parse(modifiedAt)) < 60_000);
      }
      cursor = page.next;
    } while (cursor !== null);
    t.strictSame(seen, all);
    const { entries } = await call(each, 'list', {});
    t.equal(entries.length, 27, 'case is kept: Docs is not docs');
  }
});

t.test('delete says whether there was one; drop leaves nothing of the plugin', async (t) => {
  const { driver, folder } = await opened(t);
  await call(driver, 'write', { path: 'a', text: 'x' });
  await call(driver, 'write', { path: 'a', text: 'other' }, { plugin: 'other' });
  t.same(await call(driver, 'delete', { path: 'a' }), { deleted: true });
  t.same(await call(driver, 'delete', { path: 'a' }), { deleted: false });
  t.same(await call(driver, 'list', {}), { entries: [], next: null });
  await call(driver, 'write', { path: 'b', text: 'x' });
  await driver.drop?.('notes');
  await driver.drop?.('notes');
  t.strictSame((await readdir(folder)).toSorted(), ['.new', 'other']);
  t.same(await call(driver, 'list', {}), { entries: [], next: null });
  await call(driver, 'write', { path: 'b', text: 'anew' });
  t.equal(await textOf(driver, 'b'), 'anew');
  t.equal(await textOf(driver, 'a', 'other'), 'other');
});

t.test('a call outside the granted prefix is refused', async (t) => {
  const { driver } = await opened(t);
  const grant = blob.normalizeResource('docs/*');
  await call(driver, 'write', { path: 'docs/a', text: 'x' }, { grant });
  t.match(await call(driver, 'list', { prefix: 'docs/' }, { grant }), { entries: [{}] });
  for (const refused of [
    call(driver, 'write', { path: 'doc', text: 'x' }, { grant }),
    call(driver, 'read', { path: 'Docs/a' }, { grant }),
    call(driver, 'delete', { path: 'other/a' }, { grant }),
    call(driver, 'list', { prefix: 'doc' }, { grant }),
    call(driver, 'list', {}, { grant }),
  ]) {
    t.equal((await failure(refused)).code, 'CAPABILITY_DENIED');
  }
  t.equal(blob.normalizeResource('*'), '*');
  t.equal(blob.normalizeResource('a/b.txt'), 'a/b.txt');
  for (const wrong of ['', '../*', '/*', 'a//*', 'a/*/b', '**', './a', 'a\u0000*', 'e\u0301*']) {
    t.throws(() => blob.normalizeResource(wrong), { code: 'INVALID_ARGUMENT' }, ascii(wrong));
  }
});

const ATTACKS = String.raw`
  .. . ... ../x a/../b a/.. ./a a/./b /etc/passwd //x a//b a/ / ~/../x a\b ..\x C:\x C:x a:b a* a?b a|b
  a"b a'b <a> $HOME %2e%2e%2f`
  .trim()
  .split(/\s+/)
  .concat(' ', ' a', 'a ', 'a/ b', 'a\u0000', 'a\u0000/../b', 'a\nb', 'a\r', 'a\tb', 'a\u0085')
  .concat('e\u0301', '\u212b', 'a\u2028b', 'a\u200bb', 'a\u202eb', '\ufeffa', '\ud800')
  .concat('x'.repeat(513), 'é'.repeat(257), '`a`');

t.test('a path has one spelling, and none that means more than itself', async (t) => {
  const { driver, scratch, folder } = await opened(t);
  for (const path of ATTACKS) {
    for (const operation of ['read', 'write', 'delete'] as const) {
      const input = operation === 'write' ? { path, text: 'x' } : { path };
      const error = await failure(call(driver, operation, input));
      t.equal(error.code, 'INVALID_ARGUMENT', `${operation} ${ascii(path)}`);
      const frame = { plugin: 'notes', resources: ['*'], deadline: Infinity, chain: undefined };
      const signal = AbortSignal.timeout(10_000);
      const direct = driver.invoke(operation, input, { ...frame, signal });
      t.equal((await failure(direct)).code, 'INVALID_ARGUMENT', 'the driver checks it as well');
    }
  }
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        paths,
        fc.string({ unit: 'grapheme', maxLength: 20 }),
        fc.string({ unit: 'binary', maxLength: 20 }),
        fc
          .array(fc.constantFrom('..', '.', '/', 'a', '\\', ' ', '\u0301', '~', '\u0000'))
          .map((x) => x.join('')),
      ),
      async (path) => {
        let accepted = true;
        try {
          canonicalPath(path);
        } catch (error) {
          t.match(error, { code: 'INVALID_ARGUMENT' });
          accepted = false;
        }
        const write = call(driver, 'write', { path, text: path });
        if (!accepted) return void t.equal((await failure(write)).code, 'INVALID_ARGUMENT');
        await write;
        t.equal(await textOf(driver, path), path);
        t.equal(path.normalize('NFC'), path);
        t.notMatch(path, /[\p{C}\\*:]|^\/|\/$|\/\/|(^|\/)\.+(\/|$)/u);
      },
    ),
    { numRuns: 300 },
  );
  t.strictSame(await readdir(scratch), ['blobs']);
  t.strictSame((await readdir(folder)).toSorted(), ['.new', 'notes']);
  const names = await readdir(join(folder, 'notes'));
  t.ok(names.length > 0 && names.every((name) => /^[0-9a-f]{64}$/.test(name)));
});

t.test('links, pipes and folders where a blob would be lead nowhere', async (t) => {
  const { driver, folder, scratch, open, warnings } = await opened(t);
  const own = join(folder, 'notes');
  const outside = join(scratch, 'outside');
  await writeFile(outside, 'secret of the host');
  await call(driver, 'write', { path: 'x', text: 'of other' }, { plugin: 'other' });
  await call(driver, 'write', { path: 'real', text: 'real' });
  const plant: [string, (at: string) => unknown][] = [
    ['symlink to a file', (at) => symlink(outside, at)],
    ['symlink to another plugin’s blob', (at) => symlink(join(folder, 'other', nameOf('x')), at)],
    ['symlink to an own blob', (at) => symlink(join(own, nameOf('real')), at)],
    ['dangling symlink', (at) => symlink(join(scratch, 'not-there'), at)],
    ['hard link to a file', (at) => link(outside, at)],
    ['hard link to another plugin’s blob', (at) => link(join(folder, 'other', nameOf('x')), at)],
    ['pipe', (at) => spawnSync('mkfifo', [at])],
    ['empty file', (at) => writeFile(at, '')],
    ['device', (at) => symlink('/dev/zero', at)],
    [
      'torn blob',
      async (at) => {
        const content = await readFile(join(folder, 'other', nameOf('x')), 'utf8');
        await writeFile(at, content.replace('other', 'notes').slice(0, -1));
      },
    ],
  ];
  for (const [what, put] of plant) {
    await put(join(own, nameOf('x')));
    for (const each of [driver, await open()]) {
      const error = await failure(call(each, 'read', { path: 'x' }));
      t.match(error, { code: 'INTERNAL', message: /damaged/ }, what);
      const { entries } = await call(each, 'list', {});
      t.strictSame(
        entries.map(({ path }) => path),
        ['real'],
        `${what} is no blob`,
      );
      t.notMatch(error.message, scratch, 'no path of the host is told');
    }
    t.match(warnings.pop(), nameOf('x'), 'the operator hears of it');
    const { etag } = await call(driver, 'write', { path: 'x', text: 'mine' });
    t.match(await call(driver, 'read', { path: 'x' }), { etag }, `${what} is replaced by a write`);
    t.same(await call(driver, 'delete', { path: 'x' }), { deleted: true });
  }
  t.equal(await readFile(outside, 'utf8'), 'secret of the host');
  t.equal(await textOf(driver, 'x', 'other'), 'of other');
  t.equal(await textOf(driver, 'real'), 'real');
  t.notOk((await readdir(scratch)).includes('not-there'));
});

t.test('a link in the place of a plugin’s folder takes and gives nothing', async (t) => {
  const { driver, folder, scratch, open } = await opened(t);
  await call(driver, 'write', { path: 'x', text: 'of other' }, { plugin: 'other' });
  await mkdir(join(scratch, 'elsewhere'));
  for (const target of [join(folder, 'other'), join(scratch, 'elsewhere')]) {
    await symlink(target, join(folder, 'notes'));
    const fresh = await open();
    for (const refused of [
      call(fresh, 'write', { path: 'x', text: 'escaped' }),
      call(fresh, 'read', { path: 'x' }),
      call(fresh, 'list', {}),
      call(fresh, 'delete', { path: 'x' }),
    ]) {
      t.match(await failure(refused), { code: 'INTERNAL', message: /no folder/ });
    }
    await fresh.drop?.('notes');
  }
  t.equal(await textOf(driver, 'x', 'other'), 'of other', 'a drop does not follow the link');
  t.strictSame(await readdir(join(scratch, 'elsewhere')), []);
});

t.test('quotas hold under parallel writes and name themselves', async (t) => {
  const { driver, open } = await opened(t, { maxBytes: 1000, maxCount: 12 });
  const burst = async (count: number, size: number) => {
    const writes = Array.from({ length: count }, (_, i) =>
      call(driver, 'write', { path: `${size}/${i}`, text: 'x'.repeat(size) }),
    );
    const results = await Promise.allSettled(writes);
    return results.flatMap((result) =>
      result.status === 'rejected' ? [result.reason as unknown] : [],
    );
  };
  const refused = await burst(40, 100);
  t.equal(refused.length, 30);
  for (const error of refused) {
    t.match(error, { code: 'RESOURCE_EXHAUSTED', message: /plugins\.blob_max_bytes allows 1000/ });
  }
  const { entries } = await call(driver, 'list', {});
  t.equal(entries.length, 10);
  const path = entries[0]?.path ?? '';
  await call(driver, 'write', { path, text: 'y'.repeat(100) });
  t.equal(await textOf(driver, path), 'y'.repeat(100), 'a full area can be rewritten');
  t.equal(
    (await failure(call(driver, 'write', { path, text: 'y'.repeat(101) }))).code,
    'RESOURCE_EXHAUSTED',
  );
  await call(driver, 'write', { path: 'of other', text: 'z'.repeat(900) }, { plugin: 'other' });
  const many = await burst(10, 0);
  t.equal(many.length, 8);
  t.match(many[0], { code: 'RESOURCE_EXHAUSTED', message: /plugins\.blob_max_count allows 12/ });
  const reopened = await open();
  const over = await failure(call(reopened, 'write', { path: 'more', text: 'x' }));
  t.equal(over.code, 'RESOURCE_EXHAUSTED', 'counted anew after a restart');
  await call(reopened, 'delete', { path });
  await call(reopened, 'write', { path: 'more', text: 'x'.repeat(100) });
});

t.test('whatever is done at once, what is counted is what is there', async (t) => {
  const { driver, open } = await opened(t, { maxBytes: 500, maxCount: 6 });
  const step = fc.record({
    path: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'),
    size: fc.nat(200),
    remove: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), async (steps) => {
      await Promise.allSettled(
        steps.map(({ path, size, remove }) =>
          remove
            ? call(driver, 'delete', { path })
            : call(driver, 'write', { path, text: 'x'.repeat(size) }),
        ),
      );
      const { entries } = await call(driver, 'list', {});
      t.same(await call(await open(), 'list', {}), { entries, next: null });
      const bytes = entries.reduce((sum, { size }) => sum + size, 0);
      t.ok(bytes <= 500 && entries.length <= 6);
      const room = 500 - bytes;
      if (entries.length === 6) return;
      await call(driver, 'write', { path: 'room', text: 'x'.repeat(room) });
      await call(driver, 'delete', { path: 'room' });
    }),
    { numRuns: 25 },
  );
});

t.test('a call that nobody waits for any longer changes nothing', async (t) => {
  const { driver } = await opened(t);
  const gone = call(driver, 'write', { path: 'a', text: 'x' }, { signal: AbortSignal.abort() });
  t.equal((await failure(gone)).code, 'CANCELLED');
  const caller = new AbortController();
  const late = call(driver, 'write', { path: 'a', text: 'x' }, { signal: caller.signal });
  caller.abort();
  t.equal((await failure(late)).code, 'CANCELLED');
  t.same(await call(driver, 'list', {}), { entries: [], next: null });
});

t.test('what a killed writer left half-written is swept, what is no blob is told', async (t) => {
  const { driver, folder, open, warnings } = await opened(t);
  await call(driver, 'write', { path: 'a', text: 'whole' });
  await writeFile(join(folder, '.new', 'half'), 'half');
  await writeFile(join(folder, 'notes', 'README'), 'not ours');
  await rename(join(folder, 'notes', nameOf('a')), join(folder, 'notes', nameOf('b')));
  const again = await open();
  t.strictSame(await readdir(join(folder, '.new')), []);
  t.same(
    await call(again, 'list', {}),
    { entries: [], next: null },
    'a blob under another’s name is none',
  );
  t.equal(warnings.length, 2);
  t.match(await failure(call(again, 'read', { path: 'b' })), { code: 'INTERNAL' });
  await again.check();
});

/** Rewrites one blob for ever; a line for each answer. */
const WRITER = `
  const [folder, from] = process.argv.slice(1);
  const { openBlobFolder } = await import(${JSON.stringify(FOLDER_MODULE.href)});
  const driver = await openBlobFolder({ folder, maxBytes: 1e9, maxCount: 9, warn: console.log });
  const call = { plugin: 'notes', resources: ['*'], signal: new AbortController().signal, deadline: Infinity };
  for (let n = Number(from); ; n += 1) {
    const base64 = Buffer.alloc(700_000 - (n % 1000), n % 251).toString('base64');
    await driver.invoke('write', { path: 'doc', base64 }, call);
    console.log(String(n));
  }`;

async function killedWriter(folder: string, from: number): Promise<number> {
  const args = ['--input-type=module', '-e', WRITER, folder, String(from)];
  const child: ChildProcess = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (said += text));
  while (!said.includes('\n')) await sleep(5);
  await sleep(randomInt(60));
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
  return Number(said.trim().split('\n').at(-1));
}

t.test('kill -9 leaves the old content or the new, never a mix', async (t) => {
  const { folder, open, warnings } = await opened(t);
  let next = 0;
  let swept = 0;
  for (let round = 0; round < 12; round += 1) {
    const acknowledged = await killedWriter(folder, next);
    swept += (await readdir(join(folder, '.new'))).length;
    const driver = await open();
    const { base64, etag, size } = await call(driver, 'read', { path: 'doc' });
    const content = Buffer.from(base64, 'base64');
    t.equal(createHash('sha256').update(content).digest('base64url'), etag);
    const written = [acknowledged, acknowledged + 1].filter(
      (n) => size === 700_000 - (n % 1000) && content.equals(Buffer.alloc(size, n % 251)),
    );
    t.equal(written.length, 1, 'the last that was acknowledged, or the one after it, whole');
    t.strictSame(await readdir(join(folder, '.new')), []);
    next = acknowledged + 2;
  }
  t.ok(swept > 0, 'some were killed in the middle of writing');
  t.strictSame(warnings, []);
});

const FULL_DISK = `
  import { mkdirSync, readdirSync } from 'node:fs';
  const [folder] = process.argv.slice(1);
  const { openBlobFolder } = await import(${JSON.stringify(FOLDER_MODULE.href)});
  const driver = await openBlobFolder({ folder, maxBytes: 1e9, maxCount: 99, warn: console.error });
  const call = { plugin: 'notes', resources: ['*'], signal: new AbortController().signal, deadline: Infinity };
  const write = (path, length) => driver.invoke('write', { path, text: 'x'.repeat(length) }, call);
  const told = [];
  await write('small', 1000);
  for (const [path, length] of [['large', 700_000], ['small', 700_000]]) {
    await write(path, length).catch(({ code, message }) => told.push({ code, message }));
  }
  const { entries } = await driver.invoke('list', {}, call);
  const drafts = readdirSync(folder + '/.new');
  await write('after', 1000);
  await driver.check();
  const { execFileSync } = await import('node:child_process');
  execFileSync('mount', ['-o', 'remount,ro', folder]);
  await driver.check().catch(({ code }) => told.push({ code }));
  await write('after', 10).catch(({ code }) => told.push({ code }));
  console.log(JSON.stringify({ told, sizes: entries.map(({ path, size }) => [path, size]), drafts }));`;
const MOUNT =
  'mount -t tmpfs -o size=512k tmpfs "$1" && exec "$0" --input-type=module -e "$2" "$1"';
const canMount = spawnSync('unshare', ['-rm', 'true']).status === 0;

t.test(
  'a full disk, or one that cannot be written, is a clear error and no half state',
  { skip: canMount ? false : 'unshare -rm is not allowed here' },
  async (t) => {
    const folder = await scratchFolder();
    t.teardown(() => rm(folder, { recursive: true }));
    const args = ['-rm', 'sh', '-c', MOUNT, process.execPath, folder, FULL_DISK];
    const { stdout, stderr } = spawnSync('unshare', args, { encoding: 'utf8' });
    t.equal(stderr, '');
    t.match(JSON.parse(stdout), {
      told: [
        { code: 'RESOURCE_EXHAUSTED', message: /disk of this host is full/ },
        { code: 'RESOURCE_EXHAUSTED', message: /disk of this host is full/ },
        { code: 'UNAVAILABLE' },
        { code: 'UNAVAILABLE' },
      ],
      sizes: [['small', 1000]],
      drafts: [],
    });
  },
);
