/**
 * What does a plugin's route cost over HTTP? CPU of the whole server process, worker threads included,
 * for one POST that is authenticated, checked against a schema, echoed and logged, against bare fastify
 * that gets the same bytes over the same connections, checks the same schema and answers the same body,
 * and neither looks at the credential nor logs. `front` is everything but the sandbox and PostgreSQL:
 * the HTTP front and the kernel with an export that is a function; `host` is the product as `noa serve`
 * starts it. Each of 1, 8 and 32 connections sends its next request when it has the answer to the last;
 * with fewer of them fewer calls share a wake-up of the sandbox thread. The aim is for 32. One minute.
 */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packPlugin } from '@noa/sdk/author';
import { fastify } from 'fastify';
import { loadConfig } from '../../host/config.ts';
import { startHost } from '../../host/start.ts';
import { KIT } from '../loaders/sandbox.ts';
import { ADMIN, manifest, startFront } from '../transports/front.ts';
import { median, report, ServerProcess } from './load.ts';

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
  await writeFile(join(folder, plugin.runtime.file ?? ''), KIT);
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

const SHOT = { request: REQUEST, answerEnd: BODY };

/** Lets the servers take turns, so that a disturbance of the machine meets all of them. */
async function compare(measured: Map<Server, ServerProcess>, connections: number): Promise<void> {
  const costs: Record<Server, number[]> = { fastify: [], front: [], host: [] };
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [server, each] of measured)
      costs[server].push(await each.round(REQUESTS, connections));
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
  const env = {
    PATH: process.env['PATH'],
    NOA_DATA__PATH: folder,
    NOA_SERVER__PORT: '0',
    NOA_OBSERVABILITY__METRICS_PORT: '0',
    NOA_AUTH__BOOTSTRAP_TOKEN: ADMIN,
  };
  const measured = new Map<Server, ServerProcess>();
  for (const server of SERVERS) {
    measured.set(server, await ServerProcess.start(import.meta.filename, server, env, SHOT));
  }
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
  if (server !== 'host') process.once('disconnect', () => process.exit());
  report(port);
}
