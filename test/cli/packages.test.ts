/** Plugins from npm: a packed tarball, and packages by name from a registry of the operator's. */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { packPlugin, readPackage, writeBundle } from '@noa/sdk/author';
import { readBundle } from '@noa/sdk/host';
import t from 'tap';
import { packageSpec } from '../../host/cli/npm-package.ts';
import { bundleOf, eventually, RunningHost } from '../e2e/running-host.ts';
import { NOA, noa as runNoa, type Run } from './noa.ts';

const cwd = await mkdtemp(join(tmpdir(), 'noa-packages-'));
t.teardown(() => rm(cwd, { recursive: true }));
const bundle = await bundleOf('plugins/examples/digest');
const { manifest, files } = await readBundle(bundle);
const { name } = manifest;
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const host = await RunningHost.start();
t.teardown(() => host.dispose());

/** The tarball that npm itself makes of the plugin's folder, with scripts that would tell if they ran. */
async function packed(as: string, version: string): Promise<Uint8Array> {
  const dir = join(cwd, 'made', as.replace('/', '-'), version);
  for (const [file, content] of files) {
    await mkdir(dirname(join(dir, file)), { recursive: true });
    await writeFile(join(dir, file), content);
  }
  await mkdir(join(dir, 'src'));
  await writeFile(join(dir, 'src/a source (old).ts'), '');
  await writeFile(join(dir, 'plugin.json'), JSON.stringify({ ...manifest, version }));
  const scripts = Object.fromEntries(
    ['preinstall', 'install', 'postinstall', 'prepare', 'prepack'].map((script) => [
      script,
      `touch ${join(cwd, 'a-script-ran')}`,
    ]),
  );
  await writeFile(join(dir, 'package.json'), JSON.stringify({ name: as, version, scripts }));
  const npm = ['pack', '--ignore-scripts', '--json', '--pack-destination', dir];
  const { stdout } = await promisify(execFile)('npm', npm, { cwd: dir });
  const [{ filename }] = JSON.parse(stdout) as [{ filename: string }];
  return readFile(join(dir, filename));
}

const tarballs = new Map<string, Uint8Array>();
for (const [as, version] of [
  [name, '1.0.0'],
  [name, '1.1.0'],
  ['@acme/digest', '2.0.0'],
] as const) {
  tarballs.set(`${as}@${version}`, await packed(as, version));
}

/** What a registry answers: packuments and tarballs; `tampered` ones are not what they are said to be. */
const tampered = new Set<string>();
const server: Server = createServer((request, response) => {
  const path = decodeURIComponent(request.url ?? '').slice(1);
  const tarball = /^-\/(.+)$/.exec(path)?.[1];
  if (tarball !== undefined) {
    const other = [...tarballs.values()].at(-1);
    response.end(tampered.has(tarball) ? other : tarballs.get(tarball));
    return;
  }
  const versions = [...tarballs].filter(([spec]) => spec.startsWith(`${path}@`));
  if (versions.length === 0) {
    response.writeHead(404, { 'content-type': 'application/json' }).end('{"error":"not found"}');
    return;
  }
  const entries = versions.map(([spec, bytes]) => {
    const version = spec.slice(path.length + 1);
    const integrity = `sha512-${createHash('sha512').update(bytes).digest('base64')}`;
    const dist = { tarball: `${registry}/-/${encodeURIComponent(spec)}`, integrity };
    return [version, { name: path, version, dist }] as const;
  });
  const packument = {
    name: path,
    'dist-tags': { latest: entries.at(-1)?.[0] },
    versions: Object.fromEntries(entries),
  };
  response.setHeader('content-type', 'application/json').end(JSON.stringify(packument));
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
t.teardown(() => server.close());
const registry = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

function noa(...args: string[]): Promise<Run> {
  const env = {
    NOA_URL: host.url,
    NOA_TOKEN: host.token,
    HOME: cwd,
    npm_config_registry: registry,
    npm_config_cache: join(cwd, 'cache'),
  };
  return runNoa(args, { cwd, env });
}

const version = async () => (await host.get(`/v1/plugins/${name}`)).body['version'];

t.test('an npm tarball is read as the plugin that it holds', async (t) => {
  const tarball = tarballs.get(`${name}@1.0.0`) as Uint8Array;
  await t.rejects(readBundle(tarball), { code: 'INVALID_ARGUMENT' }, 'it is no bundle');
  const held = await readPackage(tarball);
  t.strictSame([...held.files.keys()].sort(), [...files.keys()].sort());
  await writeFile(join(cwd, 'packed.tgz'), tarball);
  const digest = sha256(writeBundle(held.files));
  t.match(await noa('plugin', 'install', 'packed.tgz', '--digest', `sha256:${digest}`), {
    code: 0,
    stdout: new RegExp(`^installed ${name} 1\\.0\\.0 {2}bundle sha256:${digest}\n`),
  });
  t.match(await noa('plugin', 'remove', name, '--drop-data'), { code: 0, stdout: /is deleted/ });
});

t.test('a package is installed and upgraded by its name, tag, range or version', async (t) => {
  t.match(await noa('plugin', 'install', `${name}@1.0.0`), {
    code: 0,
    stderr: new RegExp(`${name}@1\\.0\\.0 {2}sha512-`),
  });
  t.equal(await version(), '1.0.0');
  t.match(await noa('plugin', 'upgrade', name, `npm:${name}`), { code: 0 });
  t.equal(await version(), '1.1.0');
  t.match(await noa('plugin', 'upgrade', name, '@acme/digest@^2.0.0'), {
    code: 0,
    stdout: /2\.0\.0/,
  });
  t.notOk(existsSync(join(cwd, 'a-script-ran')), 'no script of a package ran');
});

t.test('what the registry does not have, or has changed, is refused', async (t) => {
  t.match(await noa('plugin', 'install', 'absent'), {
    code: 1,
    stderr: /no file or folder here: asking npm[^]*error: NOT_FOUND npm: E404/,
  });
  t.match(await noa('plugin', 'install', `${name}@9.9.9`), { code: 1, stderr: /NOT_FOUND npm: / });
  tampered.add(`${name}@1.1.0`);
  await rm(join(cwd, 'cache'), { recursive: true });
  const changed = await noa('plugin', 'upgrade', name, `${name}@1.1.0`);
  t.match(changed, { code: 1, stderr: /EINTEGRITY|not the one that the registry states/ });
  for (const spec of ['git+ssh://x/y', 'github:x/y', 'http://127.0.0.1/x.tgz', './absent', '-g']) {
    const { code, stderr } = await noa('plugin', 'install', '--', spec);
    t.match({ code, stderr }, { code: 1, stderr: /NOT_FOUND there is no file or folder/ }, spec);
  }
});

t.test('another bundle than the one of the digest is refused, and that is on record', async (t) => {
  const wrong = `sha256:${'0'.repeat(64)}`;
  const path = `/v1/plugins/${name}?digest=${wrong}`;
  const answer = await host.request('PUT', path, bundle);
  t.match(answer, {
    status: 400,
    body: { detail: new RegExp(`digest: the bundle's is sha256:${sha256(bundle)}`) },
  });
  t.match(await host.request('PUT', `/v1/plugins/${name}?digest=md5:1`, bundle), { status: 400 });
  await eventually('the refusal is on record', async () => {
    const { body } = await host.get(`/v1/audit?plugin=${name}`);
    const records = body['records'] as { kind: string; outcome: string; details: object }[];
    return records.some(
      ({ kind, outcome, details }) =>
        kind === 'plugin.upgrade' &&
        outcome === 'failed' &&
        JSON.stringify(details).includes(sha256(bundle)),
    );
  });
});

t.test('a folder whose sources are newer than its module is built, or refused', async (t) => {
  t.match(await noa('plugin', 'new', 'fresh'), { code: 0 });
  const source = join(cwd, 'fresh/src/index.ts');
  t.match(await noa('plugin', 'install', 'fresh'), { code: 0, stderr: /has no dist\/fresh\.wasm/ });
  const { sha256: before } = await packPlugin(join(cwd, 'fresh'));
  await writeFile(source, (await readFile(source, 'utf8')).replace("'hit'", "'counted'"));
  await utimes(source, Date.now() / 1000 + 5, Date.now() / 1000 + 5);
  t.match(await noa('plugin', 'upgrade', 'fresh', 'fresh', '--no-build'), {
    code: 0,
    stdout: new RegExp(before),
  });
  const built = await noa('plugin', 'upgrade', 'fresh', 'fresh');
  t.match(built, { code: 0, stderr: /building fresh, which has a newer src\/index\.ts/ });
  t.notMatch(built.stdout, before);

  const other = join(cwd, 'other');
  await mkdir(join(other, 'src'), { recursive: true });
  await mkdir(join(other, 'dist'), { recursive: true });
  for (const [file, content] of files) await writeFile(join(other, file), content);
  await writeFile(join(other, 'src/lib.rs'), '');
  await utimes(join(other, 'src/lib.rs'), Date.now() / 1000 + 5, Date.now() / 1000 + 5);
  t.match(await noa('plugin', 'upgrade', name, 'other'), {
    code: 1,
    stderr: /CONFLICT src\/lib\.rs is newer than .*\.wasm: build the plugin first/,
  });
});

const SCRIPT = '/usr/bin/script';
const skip = !existsSync(SCRIPT) && 'there is no script(1) to make a terminal';

t.test('at a terminal a removal asks what becomes of the data', { skip }, async (t) => {
  const line = `${process.execPath} ${NOA} plugin remove`;
  const answer = async (plugin: string, word: string): Promise<string> => {
    const env = { ...process.env, NOA_URL: host.url, NOA_TOKEN: host.token };
    const child = spawn(SCRIPT, ['-qec', `${line} ${plugin}`, '/dev/null'], { cwd, env });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (!output.includes('[y/N]') && (output + text).includes('[y/N]')) {
        child.stdin.write(`${word}\n`);
      }
      output += text;
    });
    await once(child, 'close');
    return output;
  };
  t.match(await answer('absent', 'y'), /error: NOT_FOUND/, 'no question about nothing');
  t.match(await answer('fresh', 'y'), /Delete the data of fresh too[^]*its data is deleted/);
  t.match(await answer(name, ''), /removed digest; its data stays/);
});

t.test('what npm takes for a path of this machine is no package', async (t) => {
  for (const version of ['..', '.x', '.', 'x.tar', 'x.tgz', 'x.TGZ', '1.tar.gz', '1.tarxgz']) {
    for (const prefix of ['', 'npm:', '@scope/']) {
      t.equal(packageSpec(`${prefix}name@${version}`), undefined, `${prefix}name@${version}`);
    }
  }
  for (const file of ['name.tar', 'name.tgz', 'name.tar.gz', 'name.tgz@1.0.0']) {
    t.equal(packageSpec(file), undefined, file);
  }
  for (const spec of ['tar', 'tgz', '@scope/tar@1.2.3', 'name@^1.0.0-tar', 'name@latest']) {
    t.equal(packageSpec(`npm:${spec}`), spec);
  }
});
