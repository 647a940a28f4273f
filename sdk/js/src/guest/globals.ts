/**
 * What authors expect of a JavaScript runtime and QuickJS lacks, put on the global object before any of
 * the plugin's code runs; larger things, which only some plugins use, are in web.ts. Types for authors are
 * in globals/ of this package. Nowhere: `Intl` and `crypto.subtle` (the engine has no tables and no
 * ciphers), and what would reach out beside `fetch`, which is in web.ts.
 */
import { console } from './console.ts';
import { getRandomValues, randomUUID } from './crypto.ts';
import { clock, parse, random } from './engine.ts';
import { clearTimeout, setInterval, setTimeout } from './timers.ts';

function define(target: object, values: object): void {
  for (const [name, value] of Object.entries(values)) {
    Object.defineProperty(target, name, { value, writable: true, configurable: true });
  }
}

let last: number | undefined;
let elapsed = 0;

/** The host's clock follows the time of day, which may be set back: only its steps forward count. */
function now(): number {
  const read = clock();
  elapsed += Math.max(0, read - (last ?? read));
  last = read;
  return elapsed;
}

define(globalThis, {
  console,
  crypto: { getRandomValues, randomUUID },
  // The engine's own counts from its start, which was at build time.
  performance: { now },
  setTimeout,
  setInterval,
  clearTimeout,
  clearInterval: clearTimeout,
});
// The engine seeds its own generator at its start, which is in the snapshot: all instances would agree.
define(Math, { random });

const parseWithReviver = JSON.parse;
define(JSON, {
  parse(text: string, reviver?: Parameters<typeof JSON.parse>[1]): unknown {
    const json = String(text);
    const value = parse(json);
    return typeof reviver === 'function' ? parseWithReviver(json, reviver) : value;
  },
});
