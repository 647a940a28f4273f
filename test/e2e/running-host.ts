/** A real host as a child process, with a data folder of its own, driven over HTTP and by the CLI. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { packPlugin, writeBundle } from '@noa/sdk/author';
import { buildPlugin } from '@noa/sdk/build';
import { effectiveLimits, parseManifest, readBundle } from '@noa/sdk/host';

const ROOT = resolve(import.meta.dirname, '../..');
const NOA = join(ROOT, 'host/noa.js');
/** A cold start runs initdb, and other test files share the machine. */
const START_MS = 60_000;

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // The tests match what they expect of it.
  readonly body: Record<string, unknown>;
}

export interface HostOptions {
  /** Reused over restarts; a fresh one is made when absent. */
  readonly dataPath?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Leaves the bootstrap token to the host. */
  readonly anonymous?: boolean;
}

export class RunningHost {
  readonly dataPath: string;
  readonly token: string;
  url = '';
  output = '';
  readonly #env: Record<string, string>;
  #child: ChildProcess | undefined;

  private constructor(dataPath: string, { env = {}, anonymous = false }: HostOptions) {
    this.dataPath = dataPath;
    this.token = randomBytes(32).toString('base64url');
    this.#env = {
      PATH: `${join(ROOT, 'node_modules/.bin')}:/usr/local/bin:/usr/bin:/bin`,
      HOME: tmpdir(),
      NOA_DATA__PATH: dataPath,
      NOA_SERVER__PORT: '0',
      NOA_OBSERVABILITY__METRICS_PORT: '0',
      // Most tests count what they have installed themselves.
      NOA_PLUGINS__BUILTIN: 'none',
      ...(anonymous ? {} : { NOA_AUTH__BOOTSTRAP_TOKEN: this.token }),
      ...env,
    };
  }

  static async start(options: HostOptions = {}): Promise<RunningHost> {
    const dataPath = options.dataPath ?? (await mkdtemp(join(tmpdir(), 'noa-e2e-')));
    await mkdir(dataPath, { recursive: true });
    const host = new RunningHost(dataPath, options);
    try {
      await host.start();
    } catch (error) {
      // A folder that was given may be another host's.
      await (options.dataPath === undefined ? host.dispose() : host.stop());
      throw error;
    }
    return host;
  }

  /** Starts the process, also again after `kill` or `stop`, and resolves when it is ready. */
  async start(): Promise<void> {
    this.output = '';
    const child = spawn(process.execPath, [NOA, 'serve'], { cwd: this.dataPath, env: this.#env });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
    const until = Date.now() + START_MS;
    while (Date.now() < until && child.exitCode === null && child.signalCode === null) {
      const url = /listening on (http:\/\/\S+)/i.exec(this.output)?.[1];
      if (url !== undefined) {
        this.url = url;
        if ((await this.get('/ready').catch(() => undefined))?.status === 200) return;
      }
      await sleep(25);
    }
    throw new Error(`the host did not start:\n${this.output}`);
  }

  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error('the host does not run');
    return pid;
  }

  /** Whether the process that was started last is gone. */
  get hasEnded(): boolean {
    const child = this.#child;
    return child === undefined || child.exitCode !== null || child.signalCode !== null;
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return null;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
    return child.exitCode;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** SIGTERM; answers the exit code. */
  stop(): Promise<number | null> {
    return this.#end('SIGTERM');
  }

  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** Ends the host and deletes its data folder. */
  async dispose(): Promise<void> {
    await this.stop();
    await rm(this.dataPath, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }

  async request(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answer> {
    const binary = body instanceof Uint8Array;
    const response = await fetch(new URL(path, this.url), {
      method,
      headers: {
        authorization: `Bearer ${this.token}`,
        ...(body === undefined
          ? {}
          : { 'content-type': binary ? 'application/gzip' : 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: binary ? new Uint8Array(body) : JSON.stringify(body) }),
    });
    const text = await response.text();
    const parsed: unknown = text.startsWith('{') ? JSON.parse(text) : { text };
    return { status: response.status, headers: response.headers, body: parsed as Answer['body'] };
  }

  get(path: string): Promise<Answer> {
    return this.request('GET', path);
  }

  post(path: string, body?: unknown): Promise<Answer> {
    return this.request('POST', path, body);
  }

  /** Installs a bundle, expects 201. */
  async install(bundle: Uint8Array): Promise<Answer['body']> {
    const answer = await this.post('/v1/plugins', bundle);
    if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
    return answer.body;
  }

  /** Approves all pending grants of a plugin and answers their ids by capability. */
  async approve(plugin: string): Promise<Map<string, string>> {
    const { body } = await this.get(`/v1/grants?plugin=${plugin}`);
    const ids = new Map<string, string>();
    for (const { id, capability } of body['grants'] as { id: string; capability: string }[]) {
      const answer = await this.post(`/v1/grants/${id}/approve`);
      if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
      ids.set(capability, id);
    }
    return ids;
  }

  call(plugin: string, name: string, input: unknown = null): Promise<Answer> {
    return this.post(`/v1/plugins/${plugin}/exports/${name}`, input);
  }

  /** Runs `noa` against this host. */
  cli(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const env = { ...this.#env, NOA_URL: this.url, NOA_TOKEN: this.token };
    return new Promise((resolved) => {
      execFile(
        process.execPath,
        [NOA, ...args],
        { env, cwd: this.dataPath },
        (error, stdout, stderr) => {
          const code = typeof error?.code === 'number' ? error.code : error ? 1 : 0;
          resolved({ code, stdout, stderr });
        },
      );
    });
  }

  /** What the host and its tools have written to disk that must not hold a secret. */
  readFile(name: string): Promise<string> {
    return readFile(join(this.dataPath, name), 'utf8');
  }
}

/** Builds and packs a plugin folder of this repository, as `noa plugin build` and `pack` do. */
export async function bundleOf(folder: string): Promise<Uint8Array> {
  const dir = join(ROOT, folder);
  const manifest = parseManifest(await readFile(join(dir, 'plugin.json'), 'utf8'));
  await buildPlugin({
    dir,
    exports: Object.keys(manifest.exports),
    memoryMiB: effectiveLimits(manifest).memoryMiB,
    outFile: manifest.runtime.file ?? '',
  });
  return (await packPlugin(dir)).bytes;
}

/** As `bundleOf`, of a folder whose manifest says PORT where a port of this run is meant. */
export async function bundleAt(folder: string, port: number): Promise<Uint8Array> {
  const copy = await mkdtemp(join(tmpdir(), 'noa-plugin-'));
  try {
    await cp(join(ROOT, folder), copy, { recursive: true });
    const manifest = join(copy, 'plugin.json');
    const text = await readFile(manifest, 'utf8');
    await writeFile(manifest, text.replaceAll('PORT', String(port)));
    return await bundleOf(relative(ROOT, copy));
  } finally {
    await rm(copy, { recursive: true });
  }
}

/** The bundle with other members in its manifest. */
export async function repacked(
  bundle: Uint8Array,
  change: Record<string, unknown>,
): Promise<Uint8Array> {
  const { manifest, files } = await readBundle(bundle);
  const text = new TextEncoder().encode(JSON.stringify({ ...manifest, ...change }));
  return writeBundle(new Map([...files, ['plugin.json', text]]));
}

/** Waits until `probe` answers true. */
export async function eventually(
  what: string,
  probe: () => Promise<boolean>,
  ms = 20_000,
): Promise<void> {
  const until = Date.now() + ms;
  while (Date.now() < until) {
    if (await probe()) return;
    await sleep(50);
  }
  throw new Error(`never happened: ${what}`);
}
