/**
 * The whole build of @noa/sdk into dist/: the compiled sources, the engine, and the published JSON
 * Schema. Run by `npm run build` and after every install. Each step is skipped when what it reads has
 * not changed, and the program prints only what it did.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';

const here = import.meta.dirname;
const dist = join(here, 'dist');
const require = createRequire(import.meta.url);

if (!hasTools()) {
  if (!existsSync(join(dist, 'engine.wasm')) || !existsSync(join(dist, 'index.js'))) {
    fail(
      '@noa/sdk is not built, and its tools are not installed: run `npm ci` with dev dependencies',
    );
  }
  console.log('@noa/sdk: built before; without dev dependencies it stays as it is');
} else {
  mkdirSync(dist, { recursive: true });
  compileSources();
  await buildEngineIfChanged();
  await writeSchema();
}

function hasTools(): boolean {
  return ['typescript/package.json', 'quickjs-wasi/quickjs.wasm', 'binaryen'].every((name) => {
    try {
      return require.resolve(name) !== '';
    } catch {
      return false;
    }
  });
}

function compileSources(): void {
  const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin/tsc');
  try {
    execFileSync(process.execPath, [tsc, '-p', here], { stdio: 'inherit' });
  } catch {
    fail('@noa/sdk: the sources do not compile (see above)');
  }
}

async function buildEngineIfChanged(): Promise<void> {
  const { buildEngine, engineInputs, engineLicense } = await import('../engine/build.ts');
  const hash = createHash('sha256');
  for (const file of engineInputs()) hash.update(readFileSync(file)).update('\0');
  const key = hash.digest('hex');
  const keyFile = join(dist, 'engine.key');
  const file = join(dist, 'engine.wasm');
  if (existsSync(file) && existsSync(keyFile) && readFileSync(keyFile, 'utf8') === key) return;
  const started = performance.now();
  const engine = await buildEngine();
  write(file, engine);
  write(join(dist, 'engine.LICENSE'), engineLicense());
  write(keyFile, key);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`@noa/sdk: engine built, ${Math.round(engine.length / 1024)} KiB in ${seconds} s`);
}

async function writeSchema(): Promise<void> {
  const module: unknown = await import(pathToFileURL(join(dist, 'manifest-schema.js')).href);
  const { MANIFEST_SCHEMA } = module as { MANIFEST_SCHEMA: unknown };
  write(join(dist, 'plugin.schema.json'), `${JSON.stringify(MANIFEST_SCHEMA, null, 2)}\n`);
}

/** Whole or not at all, for a plugin may be building meanwhile. */
function write(file: string, content: string | Uint8Array): void {
  const fresh = `${file}.${process.pid}`;
  writeFileSync(fresh, content);
  renameSync(fresh, file);
}

function fail(message: string): never {
  console.error(message);
  process.exit(1);
}
