#!/usr/bin/env node
/**
 * Entry of the command line, in plain JavaScript that any Node reads: the rest needs Node 24 (TypeScript
 * without a build, WebAssembly.Suspending). Under an older Node it runs itself again with the Node that
 * npm installed beside it, so that the caller's Node does not matter.
 */
import { spawn } from 'node:child_process';
import * as modules from 'node:module';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';

/** No WebAssembly memory of this process grows past 1 GiB, the most that a manifest may ask for. */
const MAX_MEMORY_PAGES = 16384;
/** A host has loaded all that it needs by then. */
const CACHE_AFTER_MS = 10_000;

if (typeof WebAssembly.Suspending === 'function') {
  if (process.argv[2] === 'serve') setFlagsFromString(`--wasm-max-mem-pages=${MAX_MEMORY_PAGES}`);
  // Types stripped and code compiled once, not at each start: it takes half as long. Beside what npm has installed,
  // for who may write there may change the code itself; where nobody may, there is no cache. After the flags above,
  // which compiled code depends on.
  modules.enableCompileCache(join(import.meta.dirname, '../node_modules/.cache/noa'));
  // Node writes it as the process ends; a host may be killed before it does.
  setTimeout(modules.flushCompileCache, CACHE_AFTER_MS).unref();
  stopWithParent();
  await import('./cli/main.ts');
} else {
  const node = bundledNode();
  if (node !== undefined && node !== process.execPath) {
    rerun(node);
  } else {
    process.stderr.write(
      `error: noa needs Node 24 or later and this is ${process.version}. ` +
        'Run `npm ci` in its folder, which brings one, or install Node 24.\n',
    );
    process.exitCode = 1;
  }
}

/** The Node of the optional package for this platform; undefined when npm left it out. */
function bundledNode() {
  const platform = process.platform === 'win32' ? 'win' : process.platform;
  const file = process.platform === 'win32' ? 'node.exe' : 'node';
  try {
    const name = `node-${platform}-${process.arch}/bin/${file}`;
    return modules.createRequire(import.meta.url).resolve(name);
  } catch {
    return undefined; // not installed, which the caller reports
  }
}

/** Stands in for the child: passes signals on and ends as it ends. */
function rerun(node) {
  const child = spawn(node, process.argv.slice(1), {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  });
  const forward = (signal) => {
    // A terminal sends SIGINT to the whole group, so the child has it already.
    if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
  for (const signal of signals) process.on(signal, forward);
  child.on('error', (error) => {
    process.stderr.write(`error: cannot start ${node}: ${error.message}\n`);
    process.exitCode = 1;
  });
  child.on('exit', (code, signal) => {
    for (const each of signals) process.removeListener(each, forward);
    if (signal === null) process.exit(code);
    process.kill(process.pid, signal);
  });
}

/** Lets a child that `rerun` started end when its parent was killed and could pass no signal on. */
function stopWithParent() {
  if (process.channel === undefined) return;
  process.channel.unref();
  process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));
}
