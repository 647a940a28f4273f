/**
 * The rules of the architecture hold, and the checkers that hold them have been seen to fail: each rule
 * is broken on purpose in a copy of the configuration, and the lint must name that very rule.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, matchesGlob } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';

const ROOT = join(import.meta.dirname, '..');

/** Every folder that may hold source, and what stands there. A file elsewhere has no rules: an error. */
const LAYERS = [
  '.ci/*',
  'capabilities/*/*',
  'capabilities/*/*/*',
  'capabilities/*/*/*/*',
  'host/*',
  'host/cli/**',
  'host/config/*',
  'host/data-folder/*',
  'host/fleet/*',
  'host/gateway/*',
  'host/gateway/*/*',
  'host/kernel/*',
  'host/loaders/*/*',
  'host/loaders/select.ts',
  'host/store/*',
  'host/telemetry/*',
  'host/transports/*',
  'host/transports/*/*',
  'plugins/*/src/**',
  'plugins/*/test/**',
  'plugins/examples/*/src/**',
  'plugins/examples/*/test/**',
  'sdk/assemblyscript/*',
  'sdk/conformance/*/src/**',
  'sdk/engine/*',
  'sdk/js/*',
  'sdk/js/globals/*',
  'sdk/js/src/**',
  'test/**',
];

const restricted = 'eslint(no-restricted-imports)';
const globals = 'eslint(no-restricted-globals)';

/** One violation each: where, what, and the rule that must name it. */
const VIOLATIONS: readonly (readonly [file: string, source: string, rule: string])[] = [
  ['sdk/js/src/a1.ts', `export { x } from '../../../host/config.ts';`, restricted],
  ['sdk/js/src/a2.ts', `export { x } from '../../../capabilities/db/x.ts';`, restricted],
  ['sdk/js/src/a3.ts', `import '@noa/host';`, restricted],
  ['capabilities/db/b1.ts', `export { x } from '../cache/x.ts';`, restricted],
  ['capabilities/db/b2.ts', `export { x } from '../../host/kernel/grants.ts';`, restricted],
  ['capabilities/db/b3.ts', `import '@noa/sdk';`, restricted],
  ['capabilities/inference/engine/b4.ts', `export { x } from '../../db/x.ts';`, restricted],
  ['capabilities/inference/engine/b5.ts', `import '@noa/sdk';`, restricted],
  ['capabilities/db/b4.ts', `import '@noa/sdk/build';`, restricted],
  ['capabilities/db/b5.ts', `export type { X } from '../../sdk/js/src/errors.ts';`, restricted],
  ['host/kernel/c1.ts', `import 'node:fs';`, restricted],
  ['host/kernel/c2.ts', `import 'pg';`, restricted],
  ['host/kernel/c3.ts', `export { x } from '../config.ts';`, restricted],
  ['host/kernel/c4.ts', `export { x } from '../../capabilities/db/x.ts';`, restricted],
  ['host/kernel/c5.ts', `import '@noa/sdk';`, restricted],
  ['host/kernel/c6.ts', `import '@noa/sdk/author';`, restricted],
  ['host/kernel/c7.ts', `export const x = () => import('../store/postgres.ts');`, restricted],
  ['host/kernel/c8.ts', `export type { X } from '../transports/http.ts';`, restricted],
  ['host/loaders/wasm/d1.ts', `export { x } from '../../transports/http.ts';`, restricted],
  ['host/loaders/wasm/d2.ts', `export { x } from '../../config.ts';`, restricted],
  ['host/gateway/q1.ts', `export { x } from '../transports/http.ts';`, restricted],
  ['host/gateway/q2.ts', `export { x } from '../store/postgres.ts';`, restricted],
  ['host/gateway/upstream/q3.ts', `export { x } from '../../config.ts';`, restricted],
  ['host/gateway/q4.ts', `export { x } from '../../capabilities/cache/redis.ts';`, restricted],
  ['host/gateway/q5.ts', `import 'node:http';`, restricted],
  ['host/gateway/q6.ts', `export { createServer } from 'node:net';`, restricted],
  ['host/gateway/q7.ts', `import 'fastify';`, restricted],
  ['host/transports/e1.ts', `export { x } from '../loaders/wasm/loader.ts';`, restricted],
  ['host/transports/e2.ts', `export { x } from '../telemetry/logs.ts';`, restricted],
  ['host/transports/e3.ts', `export { x } from '../main.ts';`, restricted],
  ['host/store/f1.ts', `export { x } from '../../capabilities/db/x.ts';`, restricted],
  ['host/store/f2.ts', `export { x } from '../data-folder.ts';`, restricted],
  ['host/loaders/wasm/o1.ts', `import '@opentelemetry/api';`, restricted],
  ['host/gateway/o2.ts', `import '@opentelemetry/api';`, restricted],
  ['host/transports/o3.ts', `import '@opentelemetry/api';`, restricted],
  ['host/store/o4.ts', `import '@opentelemetry/api';`, restricted],
  ['capabilities/db/o5.ts', `import '@opentelemetry/api';`, restricted],
  ['host/telemetry/g1.ts', `export type { X } from '../kernel/grants.ts';`, restricted],
  ['host/telemetry/g2.ts', `export { x } from '../transports/http.ts';`, restricted],
  ['host/config/g3.ts', `export { x } from '../kernel/grants.ts';`, restricted],
  ['host/config/g5.ts', `export { x } from '../gateway/policy.ts';`, restricted],
  ['host/config/g6.ts', `export { x } from '../gateway/identity/rights.ts';`, restricted],
  ['host/data-folder/g4.ts', `export { x } from '../store/postgres.ts';`, restricted],
  ['plugins/p/src/h1.ts', `import '@noa/sdk/host';`, restricted],
  ['plugins/p/src/h2.ts', `import 'node:fs';`, restricted],
  ['plugins/p/src/h3.ts', `export { x } from '../../q/src/index.ts';`, restricted],
  ['plugins/p/src/h4.ts', `import 'ajv';`, restricted],
  ['plugins/p/src/h5.ts', `export const x = XMLHttpRequest;`, globals],
  ['plugins/p/src/h6.ts', `export const x = process;`, globals],
  ['plugins/p/src/h7.ts', `export const x = WebSocket;`, globals],
  ['plugins/p/src/h8.ts', `export const x = globalThis;`, globals],
  ['plugins/p/test/h9.ts', `import 'node:fs';`, restricted],
  ['host/i1.ts', `export const x = process.env['X'];`, 'node(no-process-env)'],
  ['host/cli/i2.ts', `export const { env } = process;`, 'eslint(no-restricted-properties)'],
  ['host/i3.ts', `import 'node:process';`, restricted],
  [
    'capabilities/db/i4.ts',
    `import { env } from 'node:process';\nexport const x = env;`,
    restricted,
  ],
  ['host/i5.ts', `export const x = globalThis.process;`, 'eslint(no-restricted-properties)'],
  ['host/j1.ts', `import './j2.ts';`, 'import(no-cycle)'],
  ['host/j2.ts', `import './j1.ts';`, 'import(no-cycle)'],
  ['host/k1.ts', `export * from './k2.ts';`, 'oxc(no-barrel-file)'],
  ['host/k2.ts', `export const x: any = 1;`, 'typescript(no-explicit-any)'],
  ['host/k3.ts', `export default 1;`, 'import(no-default-export)'],
  [
    'host/k4.ts',
    `export const f = async (): Promise<void> => {};\nf();`,
    'typescript(no-floating-promises)',
  ],
  ['host/k5.ts', `export const x: string = JSON.parse('1');`, 'typescript(no-unsafe-assignment)'],
  ['host/k6.ts', `export const x: string = 1;`, 'typescript(TS2322)'],
  ['host/k7.ts', `// @ts-ignore\nexport const x: string = 1;`, 'typescript(ban-ts-comment)'],
  ['host/k8.ts', `console.log(1);`, 'eslint(no-console)'],
  ['host/k9.ts', `throw 'text';`, 'typescript(only-throw-error)'],
  ['host/l1.ts', `// TODO: later`, 'eslint(no-warning-comments)'],
  ['host/l2.ts', `export const x = [1][0]!;`, 'typescript(no-non-null-assertion)'],
  [
    'test/m1.test.ts',
    `import t from 'tap';\nt.rejects(Promise.resolve());`,
    'typescript(no-floating-promises)',
  ],
];

/** What the rules must let through. */
const ALLOWED: readonly (readonly [file: string, source: string])[] = [
  [
    'host/kernel/z1.ts',
    `import '@noa/sdk/host';\nimport 'jose';\nimport 'node:crypto';\nimport './z2.ts';`,
  ],
  ['host/kernel/z2.ts', `import 'ajv/dist/2020.js';\nimport 'semver';\nimport 're2js';`],
  [
    'capabilities/db/z3.ts',
    `import '@noa/sdk/host';\nimport 'pg';\nimport 'node:fs';\nimport './z4.ts';`,
  ],
  ['capabilities/db/z4.ts', `export const x = 1;`],
  ['host/transports/z5.ts', `import '../kernel/z2.ts';\nimport 'fastify';`],
  [
    'host/gateway/identity/z10.ts',
    `import '../../kernel/z2.ts';\nimport 'undici';\nexport { BlockList } from 'node:net';`,
  ],
  ['host/config.ts', `export const env = { ...process.env };`],
  [
    'host/config/z11.ts',
    `import '../gateway/settings.ts';\nimport '../gateway/upstream/settings.ts';`,
  ],
  ['plugins/p/src/z6.ts', `import '@noa/sdk';\nimport './z7.ts';`],
  ['plugins/p/src/z7.ts', `export const x = 1;`],
  [
    'plugins/p/test/z8.ts',
    `import 'node:test';\nimport '@noa/sdk/testing';\nimport '../src/z7.ts';`,
  ],
  ['test/z9.test.ts', `import t from 'tap';\nt.test('x', async (t) => t.pass());`],
];

interface Report {
  readonly diagnostics: readonly { readonly code: string; readonly filename: string }[];
}

async function lint(cwd: string): Promise<Map<string, Set<string>>> {
  // The module itself: tap loads itself into every Node that a test starts, and that breaks bin/oxlint.
  const program = [join(ROOT, 'node_modules/oxlint/dist/cli.js'), '--format', 'json'];
  const run = promisify(execFile)(process.execPath, program, { cwd, maxBuffer: 2 ** 26 });
  // Findings end it with 1; only what it printed counts.
  const { stdout } = await run.catch((error: { stdout: string }) => error);
  const found = new Map<string, Set<string>>();
  for (const { filename, code } of (JSON.parse(stdout) as Report).diagnostics) {
    found.set(filename, (found.get(filename) ?? new Set()).add(code));
  }
  return found;
}

t.test('lint names every planted violation, and nothing that is allowed', async (t) => {
  // Outside of the repository, whose .gitignore would hide a test folder.
  const dir = await mkdtemp(join(tmpdir(), 'noa-lint-'));
  t.teardown(() => rm(dir, { recursive: true }));
  for (const file of ['.oxlintrc.json', 'tsconfig.json', 'package.json']) {
    await cp(join(ROOT, file), join(dir, file));
  }
  await symlink(join(ROOT, 'node_modules'), join(dir, 'node_modules'));
  for (const [file, source] of [...VIOLATIONS, ...ALLOWED]) {
    await mkdir(dirname(join(dir, file)), { recursive: true });
    await writeFile(join(dir, file), `${source}\n`);
  }
  const found = await lint(dir);
  for (const [file, source, rule] of VIOLATIONS) {
    const codes = [...(found.get(file) ?? [])];
    t.ok(codes.includes(rule), `${file}: ${source}`, { wanted: rule, found: codes });
  }
  const layerRules = [
    restricted,
    globals,
    'node(no-process-env)',
    'typescript(no-floating-promises)',
  ];
  for (const [file, source] of ALLOWED) {
    const codes = [...(found.get(file) ?? [])].filter((code) => layerRules.includes(code));
    t.strictSame(codes, [], `${file}: ${source}`);
  }
});

const SKIPPED = new Set(['node_modules', 'dist', '.git', '.tap', '.noa']);

async function sources(): Promise<string[]> {
  const names = await readdir(ROOT, { recursive: true });
  return names.filter(
    (name) => /\.[cm]?[jt]s$/.test(name) && !name.split('/').some((part) => SKIPPED.has(part)),
  );
}

const outside = (files: readonly string[]): string[] =>
  files.filter((file) => !LAYERS.some((layer) => matchesGlob(file, layer)));

t.test('every source file stands in a declared layer', async (t) => {
  const files = await sources();
  t.ok(files.length > 50, 'the files were found');
  t.strictSame(outside(files), []);
  const strays = [
    'utils/x.ts',
    'host/helpers/x.ts',
    'capabilities/x.ts',
    'x.ts',
    'host/loaders/x.ts',
  ];
  t.strictSame(outside(strays), strays, 'a file elsewhere is seen');
});

t.test('the map names every file of the kernel, and no other', async (t) => {
  const map = await readFile(join(ROOT, 'ARCHITECTURE.md'), 'utf8');
  const from = map.indexOf('## The kernel, file by file');
  const section = map.slice(from, map.indexOf('\n## ', from + 1));
  const named = [...section.matchAll(/`([a-z-]+\.ts)`/g)]
    .map(([, name]) => String(name))
    .toSorted();
  t.strictSame(named, (await readdir(join(ROOT, 'host/kernel'))).toSorted());
});

const EVASIONS = [
  /\bas unknown as\b/,
  /@ts-(ignore|nocheck)/,
  /(oxlint|eslint)-disable(?!.*-- \S)/,
];

t.test('no file evades the checkers without a reason', async (t) => {
  const evades = (text: string) => EVASIONS.some((evasion) => evasion.test(text));
  t.ok(evades('x as unknown as Y') && evades('// oxlint-disable-next-line no-console'));
  t.notOk(evades('// oxlint-disable-next-line no-console -- the program is a console'));
  const guilty: string[] = [];
  for (const file of await sources()) {
    if (file === 'test/architecture.test.ts') continue;
    if (evades(await readFile(join(ROOT, file), 'utf8'))) guilty.push(file);
  }
  t.strictSame(guilty, []);
});
