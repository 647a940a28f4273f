/**
 * A real host under attack: a bystander's plugin is called through HTTP all the time, from before the
 * first attack to after the last. Every attack has the same epilogue: the host is the same process, the
 * bystander got nothing but right answers, the audit tells of the attack and its chain is whole, and
 * no answer gave a place or a stack of the host away, and neither answer nor log a credential.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { packPlugin } from '@noa/sdk/author';
import type { Test } from 'tap';
import wabtFactory from 'wabt';
import { build } from '../../host/cli/author/project.ts';
import { type Answer, bundleOf, eventually, RunningHost } from '../e2e/running-host.ts';

/** Pause between two calls of the bystander, in ms. */
const BREATH_MS = 10;
/** Calls that the bystander makes after an attack before its fate is judged. */
const AFTERWARDS = 3;

/** What no answer may hold; the log is the operator's, and may tell of places. */
const LEAKS =
  /node:internal|node_modules|file:\/\/|\/(host|capabilities|sdk)\/[\w/-]+\.[jt]s|(\\n|\n)\s+at /;

export interface Expectation {
  /** Matched against one audit record that the attack has left; absent for one that no request comes of. */
  readonly audit?: object;
}

export class Target {
  readonly host: RunningHost;
  readonly #test: Test;
  readonly #answers: string[] = [];
  #calls = 0;
  readonly #failures: string[] = [];
  readonly #slowest: { ms: number } = { ms: 0 };
  #over = false;

  private constructor(test: Test, host: RunningHost) {
    this.#test = test;
    this.host = host;
  }

  /** Starts a host with the bystander on it, and what is to attack it, with all that it asks for granted. */
  static async start(
    test: Test,
    attackers: readonly Uint8Array[],
    env: Record<string, string> = {},
  ): Promise<Target> {
    const host = await RunningHost.start({ env });
    test.teardown(() => host.dispose());
    const target = new Target(test, host);
    for (const bundle of [await bundleOf('plugins/examples/notes'), ...attackers]) {
      const { name } = await host.install(bundle);
      await host.approve(String(name));
    }
    await host.post('/plugins/notes/notes', { text: 'of the bystander' });
    const bystander = target.#stand();
    test.teardown(async () => {
      target.#over = true;
      await bystander;
    });
    return target;
  }

  async #stand(): Promise<void> {
    while (!this.#over) {
      const started = performance.now();
      const answer = await this.host.get('/plugins/notes/notes').catch(String);
      const good =
        typeof answer !== 'string' &&
        answer.status === 200 &&
        JSON.stringify(answer.body).includes('of the bystander');
      if (!good && !this.#over) this.#failures.push(JSON.stringify(answer));
      this.#calls += 1;
      this.#slowest.ms = Math.max(this.#slowest.ms, performance.now() - started);
      await sleep(BREATH_MS);
    }
  }

  /** Calls an export of an attacker and keeps the answer, to be searched for leaks. */
  async call(plugin: string, name: string, input: unknown = {}): Promise<Answer> {
    const answer = await this.host.call(plugin, name, input);
    this.#answers.push(JSON.stringify(answer.body));
    return answer;
  }

  /** Offers a bundle and keeps the answer. */
  async offer(bundle: Uint8Array, headers: Record<string, string> = {}): Promise<Answer> {
    const answer = await this.host.request('POST', '/v1/plugins', bundle, headers);
    this.#answers.push(JSON.stringify(answer.body));
    return answer;
  }

  /** One attack as a test of its own, with the epilogue that all have. */
  attack(name: string, { audit }: Expectation, run: (t: Test) => Promise<void>): void {
    this.#test.test(name, async (t) => {
      const since = new Date().toISOString();
      this.#answers.length = 0;
      this.#slowest.ms = 0;
      await run(t);

      const calls = this.#calls;
      await eventually('the bystander goes on', async () => this.#calls >= calls + AFTERWARDS);
      t.strictSame(this.#failures.splice(0), [], 'the bystander got right answers');
      t.comment(`slowest answer to the bystander: ${Math.round(this.#slowest.ms)} ms`);
      t.notOk(this.host.hasEnded, 'it is the same process');
      t.equal((await this.host.get('/health')).status, 200, 'the host lives');
      if (audit !== undefined) {
        await eventually(`an audit record like ${JSON.stringify(audit)}`, async () =>
          (await this.#records(since)).some((record) => matches(record, audit)),
        );
      }
      for (const text of this.#answers) t.notMatch(text, LEAKS, 'no places and no stacks');
      const shown = [...this.#answers, this.host.output].join('\n');
      t.notOk(shown.includes(this.host.token), 'no credential is shown');
    });
  }

  /** The last test: what the whole battle has left. */
  aftermath(): void {
    this.#test.test('afterwards the host is ready, its audit whole, its end clean', async (t) => {
      t.match(await this.host.post('/v1/audit/verify'), { status: 200, body: { ok: true } });
      t.match(await this.host.get('/ready'), { status: 200 });
      this.#over = true;
      t.equal(await this.host.stop(), 0);
    });
  }

  async #records(since: string): Promise<object[]> {
    const { body } = await this.host.get('/v1/audit?limit=200');
    const records = body['records'] as { timestamp: string }[];
    return records.filter(({ timestamp }) => timestamp >= since);
  }
}

function matches(record: object, pattern: object): boolean {
  return Object.entries(pattern).every(([key, wanted]: [string, unknown]) => {
    const value: unknown = Object.entries(record).find(([name]) => name === key)?.[1];
    if (wanted instanceof RegExp) return wanted.test(JSON.stringify(value));
    return JSON.stringify(value) === JSON.stringify(wanted);
  });
}

const wabt = await wabtFactory();

/** A module from its text form. */
export function assemble(wat: string): Uint8Array {
  const features = {
    exceptions: true,
    reference_types: true,
    bulk_memory: true,
    multi_memory: true,
  };
  const module = wabt.parseWat('attack.wat', wat, features);
  try {
    return module.toBinary({}).buffer;
  } finally {
    module.destroy();
  }
}

/** A bundle of a manifest and a module; `runtime` and a version are filled in. */
export function packed(manifest: object, wasm: Uint8Array): Promise<Uint8Array> {
  return inFolder(manifest, { 'plugin.wasm': wasm }, async (dir) => (await packPlugin(dir)).bytes);
}

/** A bundle of a manifest and the plugin's sources, built in their language as `noa plugin build` does. */
export function built(
  manifest: object,
  sources: string | Record<string, string>,
): Promise<Uint8Array> {
  const files = typeof sources === 'string' ? { 'src/index.ts': sources } : sources;
  return inFolder(manifest, files, async (dir) => {
    await build({ dir, check: 'nothing' });
    return (await packPlugin(dir)).bytes;
  });
}

async function inFolder(
  manifest: object,
  files: Record<string, string | Uint8Array>,
  work: (dir: string) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  const dir = await mkdtemp(join(tmpdir(), 'noa-attack-'));
  try {
    const text = JSON.stringify({
      version: '1.0.0',
      noa: '^1.0.0',
      runtime: { kind: 'wasm', file: 'plugin.wasm' },
      ...manifest,
    });
    for (const [name, content] of Object.entries({ 'plugin.json': text, ...files })) {
      await mkdir(dirname(join(dir, name)), { recursive: true });
      await writeFile(join(dir, name), content);
    }
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
