/**
 * Builds the JavaScript engine that every TypeScript plugin carries: QuickJS-NG as `quickjs-wasi` ships
 * it, merged with glue.wat and wasi.wat. The result imports nothing but `extism:host/env` and `extism:host/user`,
 * and the same inputs give the same bytes.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

const require = createRequire(import.meta.url);

/** Exports that the plugin build uses; the module that it writes has none of them but `memory`. */
const KEPT = new Set([
  'memory',
  '__stack_pointer',
  '_initialize',
  'noa_dispatch',
  'noa_limit_stack',
  'noa_run',
  'noa_step',
  'noa_unhandled',
  'qjs_init',
  'qjs_set_promise_rejection_handler',
  'qjs_new_host_function',
  'qjs_compile',
  'qjs_eval',
  'qjs_eval_bytecode',
  'qjs_is_job_pending',
  'qjs_execute_pending_job',
  'qjs_is_exception',
  'qjs_get_exception',
  'qjs_get_global',
  'qjs_get_prop_string',
  'qjs_set_prop_string',
  'qjs_get_string_len',
  'qjs_free_cstring',
  'qjs_free_value',
  'qjs_run_gc',
  'wasm_malloc',
  'wasm_free',
]);

/** What V8 takes and the engine needs; with every feature on, the merge writes modules V8 refuses. */
const FEATURES = [
  '--enable-bulk-memory',
  '--enable-bulk-memory-opt',
  '--enable-sign-ext',
  '--enable-mutable-globals',
  '--enable-nontrapping-float-to-int',
  '--enable-multivalue',
  '--enable-reference-types',
];

/** Files whose content decides what the engine is. */
export function engineInputs(): string[] {
  return [
    import.meta.filename,
    join(import.meta.dirname, 'glue.wat'),
    join(import.meta.dirname, 'wasi.wat'),
    require.resolve('quickjs-wasi/quickjs.wasm'),
    join(dirname(require.resolve('binaryen')), 'package.json'),
  ];
}

export function engineLicense(): string {
  return readFileSync(
    join(dirname(require.resolve('quickjs-wasi/quickjs.wasm')), 'LICENSE'),
    'utf8',
  );
}

export async function buildEngine(): Promise<Uint8Array> {
  const scratch = mkdtempSync(join(tmpdir(), 'noa-engine-'));
  try {
    const merged = join(scratch, 'merged.wasm');
    execFileSync(
      process.execPath,
      [
        join(dirname(require.resolve('binaryen')), 'bin/wasm-merge'),
        // each module with the name by which the others import from it
        require.resolve('quickjs-wasi/quickjs.wasm'),
        'qjs',
        join(import.meta.dirname, 'glue.wat'),
        'env',
        join(import.meta.dirname, 'wasi.wat'),
        'wasi_snapshot_preview1',
        ...FEATURES,
        '-o',
        merged,
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    );
    return await trim(readFileSync(merged));
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

async function trim(merged: Uint8Array): Promise<Uint8Array> {
  const { default: binaryen } = await import('binaryen');
  const module = binaryen.readBinary(merged);
  try {
    for (let index = module.getNumExports() - 1; index >= 0; index -= 1) {
      const { name } = binaryen.getExportInfo(module.getExportByIndex(index));
      if (!KEPT.has(name)) module.removeExport(name);
    }
    module.runPasses(['remove-unused-module-elements', 'strip-debug', 'strip-producers']);
    return check(module.emitBinary());
  } finally {
    module.dispose();
  }
}

/** What the plugin build and glue.wat rely on; a new release of the engine may break it silently. */
function check(engine: Uint8Array): Uint8Array {
  const module = new WebAssembly.Module(Uint8Array.from(engine));
  const exported = new Set(WebAssembly.Module.exports(module).map(({ name }) => name));
  const missing = [...KEPT].filter((name) => !exported.has(name));
  const foreign = WebAssembly.Module.imports(module).filter(
    (entry) => entry.module !== 'extism:host/env' && entry.module !== 'extism:host/user',
  );
  if (missing.length > 0) throw new Error(`the engine lacks the export ${missing.join(', ')}`);
  if (foreign.length > 0) {
    const names = foreign.map((entry) => `${entry.module} ${entry.name}`);
    throw new Error(`the engine imports what no host of ours offers: ${names.join(', ')}`);
  }
  return engine;
}
