/** Exports that emit, for their author: the types, the handler in the process and the built module. */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import t from 'tap';
import { definePlugin, type Emit, type Json } from '@noa/sdk';
import { generateTypes } from '@noa/sdk/author';
import { parseManifest } from '@noa/sdk/host';
import { createTestHost, provideLoader } from '@noa/sdk/testing';
import { builtinBytes } from '../../host/builtin.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { bundleOf } from '../e2e/running-host.ts';

const folder = resolve(import.meta.dirname, '../fixtures/plugins/streamer');

interface Streamer {
  exports: {
    count(input: Json, emit: Emit): { emitted: number };
    relay(input: Json): Json;
  };
  config: object;
  capabilities: object;
}

void t.test('only an export with stream: true has emit', async (t) => {
  const text = generateTypes(parseManifest(await readFile(`${folder}/plugin.json`, 'utf8')));
  t.match(text, / {4}count\(input: Json, emit: Emit\): unknown;/);
  t.match(text, / {4}relay\(input: Json\): unknown;/);
  t.match(text, /import type \{ Emit, EventsPort, Json, PluginPort \} from '@noa\/sdk';/);
  definePlugin<Streamer>({
    count: async (_input, { emit }) => {
      await emit({ any: 'value' });
      return { emitted: 1 };
    },
    // @ts-expect-error: it is no stream
    relay: (_input, { emit }: { emit: Emit }) => typeof emit,
  });
  const wrong = { name: 'a', version: '1.0.0', runtime: { kind: 'wasm', file: 'a.wasm' } };
  t.throws(() => parseManifest(JSON.stringify({ ...wrong, exports: { a: { stream: 'yes' } } })), {
    code: 'INVALID_ARGUMENT',
    message: /stream/,
  });
});

void t.test('what is emitted is kept for the test, in the process and in the module', async (t) => {
  await bundleOf('test/fixtures/plugins/streamer'); // builds it
  provideLoader(() => createWasmLoader({ callsPerThread: 8, threads: 1, bytes: builtinBytes }));
  const plugin = definePlugin<Streamer>({
    async count(_input, { emit }) {
      for (let n = 1; n <= 3; n += 1) await emit({ n, text: `ü${n}` });
      return { emitted: 3 };
    },
    relay: (input) => input,
  });
  for (const more of [{ plugin }, {}]) {
    await using host = await createTestHost<Streamer>({ folder, ...more });
    t.strictSame(await host.call('count', { to: 3 }), { emitted: 3 });
    t.strictSame(
      host.emitted,
      [1, 2, 3].map((n) => ({ n, text: `ü${n}` })),
    );
    t.strictSame(host.calls, [], 'it is no use of a right');
  }
});
