/**
 * What does a plugin's route cost over HTTP? CPU of the whole server process, worker threads included,
 * for one POST that is authenticated, checked against a schema, echoed and logged, against bare fastify
 * that gets the same bytes over the same connections, checks the same schema and answers the same body,
 * and neither looks at the credential nor logs. `front` is everything but the sandbox and PostgreSQL:
 * the HTTP front and the kernel with an export that is a function; `host` is the product as `noa serve`
 * starts it. Each of 1, 8 and 32 connections sends its next request when it has the answer to the last;
 * with fewer of them fewer calls share a wake-up of the sandbox thread. The aim is for 32. One minute.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packPlugin } from '@noa/sdk/author';
import { fastify } from 'fastify';
import { loadConfig } from '../../host/config.ts';
import { startHost } from '../../host/start.ts';
import { KIT } from '../loaders/sandbox.ts';
import { ADMIN, manifest, startFront } from '../transports/front.ts';

const SERVERS = ['fastify', 'front', 'host'] as const;
type Server = (typeof SERVERS)[number];

const TARGET = 1.8;
const CONNECTIONS = [1, 8, 32] as const;
const AIMED_AT = 32;
const WARM_UP = 16_000;
const REQUESTS = 4000;
const ROUNDS = 9;

const SCHEMA = {
  type: 'object',
  additionalProperties: false,
  required: ['text', 'tags'],
  properties: {
    text: { type: 'string', minLength: 1, maxLength: 1000 },
    tags: { type: 'array', maxItems: 10, items: { type: 'string' } },
    count: { type: 'integer', minimum: 0 },
  },
};
const BODY = JSON.stringify({
  text: 'Milk, bread and a newspaper; and ask about the parcel that came back last week.',
  tags: ['home', 'errand', 'today'],
  count: 3,
});

const plugin = manifest({
  name: 'echo',
  limits: { concurrency: 64 },
  exports: { echo: { input: SCHEMA } },
  contributes: { routes: [{ method: 'POST', path: '/notes', export: 'echo' }] },
});

/** Starts one server in this process and answers its port. */
async function serve(server: Server): Promise<number> {
  if (server === 'fastify') {
    const app = fastify();
    app.post('/plugins/echo/notes', { schema: { body: SCHEMA } }, async ({ body }) => body);
    return Number(new URL(await app.listen({ host: '127.0.0.1', port: 0 })).port);
  }
  if (server === 'front') {
    const ignore = () => undefined;
    const front = await startFront({ observe: ignore, access: ignore });
    await front.install(plugin, { echo: (input) => input });
    return front.port;
  }
  const folder = process.env['NOA_DATA__PATH'] ?? '';
  const host = await startHost(loadConfig({ env: process.env, cwd: folder }), () => undefined);
  process.once('disconnect', () => void host.stop().then(() => process.exit()));
  await installKit(host.url, folder);
  return Number(new URL(host.url).port);
}

async function installKit(url: string, folder: string): Promise<void> {
  await writeFile(join(folder, 'plugin.json'), JSON.stringify(plugin));
  await writeFile(join(folder, plugin.runtime.file), KIT);
  const { bytes } = await packPlugin(folder);
  const response = await fetch(`${url}/v1/plugins`, {
    method: 'POST',
    body: new Uint8Array(bytes),
    headers: { 'content-type': 'application/gzip', authorization: `Bearer ${ADMIN}` },
  });
  if (response.status !== 201) throw new Error(await response.text());
}

const REQUEST = [
  'POST /plugins/echo/notes HTTP/1.1',
  'Host: 127.0.0.1',
  `Authorization: Bearer ${ADMIN}`,
  'Content-Type: application/json',
  `Content-Length: ${Buffer.byteLength(BODY)}`,
  '',
  BODY,
].join('\r\n');

/** One keep-alive connection that sends the next request when it has the whole answer to the last. */
class Client {
  readonly #socket: Socket;
  #pending = '';
  #answered: (() => void) | undefined;

  constructor(port: number) {
    this.#socket = connect(port, '127.0.0.1').setNoDelay().setEncoding('latin1');
    this.#socket.on('data', (text: string) => this.#read(text));
    this.#socket.on('end', () => this.#socket.destroy(new Error('the server ended a connection')));
  }

  #read(text: string): void {
    this.#pending += text;
    if (!this.#pending.startsWith('HTTP/1.1 200')) throw new Error(this.#pending);
    if (!this.#pending.endsWith(BODY)) return;
    this.#pending = '';
    this.#answered?.();
  }

  async send(count: number): Promise<void> {
    for (let sent = 0; sent < count; sent += 1) {
      await new Promise<void>((resolve) => {
        this.#answered = resolve;
        this.#socket.write(REQUEST);
      });
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

class Measured {
  readonly #child: ChildProcess;
  readonly #clients: Client[];

  private constructor(child: ChildProcess, port: number) {
    this.#child = child;
    this.#clients = Array.from({ length: Math.max(...CONNECTIONS) }, () => new Client(port));
  }

  static async start(server: Server, folder: string): Promise<Measured> {
    const env = {
      PATH: process.env['PATH'],
      NOA_DATA__PATH: folder,
      NOA_SERVER__PORT: '0',
      NOA_OBSERVABILITY__METRICS_PORT: '0',
      NOA_AUTH__BOOTSTRAP_TOKEN: ADMIN,
    };
    const stdio = ['ignore', 'ignore', 'inherit', 'ipc'] as const;
    const child = fork(import.meta.filename, [server], { env, stdio: [...stdio] });
    const ended = once(child, 'exit').then(() => Promise.reject(new Error(`${server} ended`)));
    const [port] = (await Promise.race([once(child, 'message'), ended])) as [number];
    ended.catch(() => undefined);
    return new Measured(child, port);
  }

  async send(requests: number, connections: number): Promise<void> {
    const each = requests / connections;
    const clients = this.#clients.slice(0, connections);
    await Promise.all(clients.map((client) => client.send(each)));
  }

  /** CPU microseconds a request. */
  async round(connections: number): Promise<number> {
    const before = await this.#cpu();
    await this.send(REQUESTS, connections);
    return ((await this.#cpu()) - before) / REQUESTS;
  }

  async #cpu(): Promise<number> {
    const answer = once(this.#child, 'message');
    this.#child.send('cpu');
    const [micros] = (await answer) as [number];
    return micros;
  }

  async close(): Promise<void> {
    for (const client of this.#clients) client.close();
    const ended = once(this.#child, 'exit');
    this.#child.disconnect();
    await ended;
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

/** Lets the servers take turns, so that a disturbance of the machine meets all of them. */
async function compare(measured: Map<Server, Measured>, connections: number): Promise<void> {
  const costs: Record<Server, number[]> = { fastify: [], front: [], host: [] };
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [server, each] of measured) costs[server].push(await each.round(connections));
  }
  const floor = median(costs.fastify);
  console.log(`${connections} connection${connections > 1 ? 's' : ''}:`);
  for (const server of SERVERS) {
    const cost = median(costs[server]);
    const times = `${(cost / floor).toFixed(2)} times fastify`;
    console.log(`  ${server.padEnd(8)} ${cost.toFixed(1)} µs of CPU a request, ${times}`);
  }
  if (connections !== AIMED_AT) return;
  const ratio = median(costs.host) / floor;
  const verdict = ratio <= TARGET ? 'met' : 'MISSED';
  console.log(`host : fastify = ${ratio.toFixed(2)} (aim ${TARGET}: ${verdict})`);
}

async function bench(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'noa-bench-'));
  await chmod(folder, 0o755); // run by root, PostgreSQL is another user
  const measured = new Map<Server, Measured>();
  for (const server of SERVERS) measured.set(server, await Measured.start(server, folder));
  for (const each of measured.values()) await each.send(WARM_UP, AIMED_AT);
  for (const connections of CONNECTIONS) await compare(measured, connections);
  for (const each of measured.values()) await each.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}

const [, , name] = process.argv;
const server = SERVERS.find((each) => each === name);
if (server === undefined) await bench();
else {
  const port = await serve(server);
  process.on('message', () => {
    const { user, system } = process.cpuUsage();
    process.send?.(user + system);
  });
  if (server !== 'host') process.once('disconnect', () => process.exit());
  process.send?.(port);
}
