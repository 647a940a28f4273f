/** The same modules under stock Extism and under our loader: valid use must give equal results. */
import createPlugin from '@extism/extism';
import type { CallContext, Plugin } from '@extism/extism';
import fc from 'fast-check';
import t from 'tap';
import { KIT, call, load, loader, refusal, request } from './sandbox.ts';

const CONFIG = { greeting: 'hello', empty: 'x' };

function stock(logged: string[]): Promise<Plugin> {
  const write = (...words: unknown[]): number => logged.push(words.join(' '));
  const logger = { ...console, info: write, error: write, warn: write, debug: write };
  return createPlugin(
    { wasm: [{ data: KIT }] },
    {
      config: CONFIG,
      logger,
      logLevel: 'debug',
      functions: {
        'extism:host/user': {
          noa_call: async (context: CallContext, block: bigint) => {
            const asked: unknown = JSON.parse(context.read(block)?.string() ?? '');
            const value = await Promise.resolve(asked);
            return context.store(JSON.stringify({ ok: true, value }));
          },
          noa_clock: () => BigInt(Date.now()) * 1_000_000n,
          noa_random: () => BigInt(Math.floor(Math.random() * 2 ** 52)),
        },
      },
    },
  );
}

await t.test('valid use of the ABI gives equal results', async (test) => {
  const [theirs, ours]: [string[], string[]] = [[], []];
  const extism = await stock(theirs);
  test.teardown(() => extism.close());
  const runtime = await load(loader(test), {
    config: CONFIG,
    log: (_level, message) => ours.push(message),
  });
  const invoke = (capability: string, operation: string, input: unknown): Promise<unknown> =>
    Promise.resolve({ capability, operation, arguments: input });

  const both = async (name: string, input: string): Promise<void> => {
    const [mine, stocks] = await Promise.all([
      call(runtime, name, input, { invoke }).catch((error: Error) => `error: ${error.message}`),
      extism.call(name, input).then(
        (output) => output?.string() ?? '',
        (error: Error) => `error: ${error.message}`,
      ),
    ]);
    test.equal(
      mine.replace('The plugin reported: ', ''),
      stocks.replace('Plugin-originated error: ', ''),
      `${name}(${input.slice(0, 30)})`,
    );
  };
  for (const input of ['{}', '1234567', '12345678', '123456789', 'ünï→😀', 'x'.repeat(100_000)]) {
    await both('echo', input);
    await both('copy', input);
  }
  for (const key of ['greeting', 'empty', 'absent']) await both('config', key);
  await both('recall', '');
  await both('remember', 'value one');
  await both('recall', '');
  await both('remember', 'a longer value than before');
  await both('recall', '');
  for (let n = 0; n < 3; n += 1) await both('count', '');
  for (const name of ['clock', 'random', 'peek']) await both(name, '');
  await both('ask', request({ text: 'ünï', list: [1, null, true] }));
  await both('ask_thrice', request('again'));
  await both('fail', 'plain text');
  await both('count', '');
  await both('log', 'a line');
  test.same(ours, theirs, 'equal log lines');

  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'grapheme' }), fc.nat(40), async (text, repeat) => {
      const input = text.repeat(repeat);
      const output = (await extism.call('copy', input))?.string() ?? '';
      return (
        (await call(runtime, 'copy', input)).replace('none', '') === output.replace('none', '')
      );
    }),
    { numRuns: 100 },
  );
  test.equal((await refusal(call(runtime, 'trap'))).code, 'PLUGIN_TRAP');
  await test.rejects(extism.call('trap'), 'a trap is an error in both');
});
