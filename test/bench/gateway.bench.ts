/**
 * What does each layer of the gateway cost? CPU of the server process for one GET of a list, against bare
 * fastify that answers the same bytes to the same requests. The layers are those of the product, put on
 * one after the other: the port, the front with the operator's credential, a token that was verified
 * before, policy and rate limits, metrics, the access log, traces of 1 and of 100 in 100 requests. Beside
 * them stands a bare fastify that answers the fields of the front too, which tells what they alone cost. Then
 * requests a second, of one process each: bare fastify, the front with all layers, the host as `noa serve`
 * starts it, from a load generator in a process of its own. Two minutes; wants two cores.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fastify, type FastifyInstance } from 'fastify';
import { exportJWK, generateKeyPair, importJWK, type JWK, jwtVerify, SignJWT } from 'jose';
import { loadConfig } from '../../host/config.ts';
import { Authenticator, type Lookup } from '../../host/gateway/identity/authenticator.ts';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Limits, rateFields } from '../../host/gateway/limits.ts';
import type { PolicyRule } from '../../host/gateway/settings.ts';
import { startHost } from '../../host/start.ts';
import { createLogs } from '../../host/telemetry/logs.ts';
import { createMetrics } from '../../host/telemetry/metrics.ts';
import { Traces } from '../../host/telemetry/traces.ts';
import { HTTP_FLAGS } from '../../host/transports/http.ts';
import { CONNECTION_LIMITS } from '../../host/transports/listener.ts';
import { Port } from '../../host/transports/port/port.ts';
import { ADMIN, startFront } from '../transports/front.ts';
import { Client, median, report, ServerProcess, type Shot, stayAwake } from './load.ts';

/** In the order in which they are put on: each has what the ones before it have. */
const LAYERS = [
  ['fastify', 'bare fastify'],
  ['port', 'the port: which protocol a connection speaks'],
  ['front', 'the front, with ids and a known credential'],
  ['token', 'a verified token, remembered'],
  ['policy', 'policy and rate limits'],
  ['metrics', 'metrics'],
  ['log', 'the access log'],
  ['traced-1', 'traces of 1 in 100'],
  ['traced-100', 'traces of all'],
] as const;
type Layer = (typeof LAYERS)[number][0];
/** No layer: fastify again, with the fields that the front's answers have. */
const FIELDS = 'fields';
type Server = Layer | typeof FIELDS;

const AIM = 1.75;
const AIMED_AT = 'traced-1';
const CONNECTIONS = 32;
const WARM_UP = 64_000;
const REQUESTS = 12_000;
const ROUNDS = 9;
const LOAD_MS = 8000;
const PATH = '/v1/hosts';
const ANSWER = { hosts: [], next: null };
const BODY = JSON.stringify(ANSWER);

const RATE = 1e9;
const POLICIES: readonly PolicyRule[] = [
  { name: 'grants', effect: 'deny', operations: ['* /v1/grants*'], not: { roles: ['admin'] } },
  { name: 'suspended', effect: 'deny', subjects: ['user:suspended-*'] },
  {
    name: 'inside',
    effect: 'deny',
    operations: ['GET /v1/hosts'],
    when: { not_addresses: ['127.0.0.0/8', '10.0.0.0/8'] },
  },
];

const print = (text: string): void => void process.stdout.write(`${text}\n`);

function shot(path: string, token: string, answerEnd: string): Shot {
  const head = `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${token}\r\n\r\n`;
  return { request: head, answerEnd };
}

function place(layer: Layer): number {
  return LAYERS.findIndex(([name]) => name === layer);
}

/** An RS256 token, and the key that verifies it, as a JWK. */
async function issue(): Promise<{ token: string; key: string }> {
  const { privateKey, publicKey } = await generateKeyPair('RS256');
  const token = await new SignJWT({})
    .setProtectedHeader({ alg: 'RS256' })
    .setSubject('bench')
    .setExpirationTime('1h')
    .sign(privateKey);
  return { token, key: JSON.stringify(await exportJWK(publicKey)) };
}

/** Knows the token above, at the cost of a verification. */
function lookup(jwk: string): Lookup {
  return {
    epoch: 0,
    find: async (credential) => {
      const { payload } = await jwtVerify(
        credential,
        await importJWK(JSON.parse(jwk) as JWK, 'RS256'),
      );
      const { sub = '', exp = 0 } = payload;
      return { principal: { subject: sub, scopes: ['admin'] }, expiresAt: exp * 1000 };
    },
  };
}

async function serveFastify(withFields = false): Promise<number> {
  const app = fastify();
  let left = RATE;
  app.get(PATH, async (_request, reply) => {
    if (!withFields) return ANSWER;
    left -= 1;
    const id = left.toString(16).padStart(16, '0');
    const rate = { level: 'L5', limit: RATE, remaining: left, resetSeconds: 60 } as const;
    void reply.headers({ 'x-request-id': id, traceparent: `00-${id}${id}-${id}-00` });
    void reply.headers(rateFields(rate));
    return ANSWER;
  });
  return Number(new URL(await app.listen({ host: '127.0.0.1', port: 0 })).port);
}

async function serveOnPort(): Promise<number> {
  const port = new Port((request, response) => app.routing(request, response), {
    limits: CONNECTION_LIMITS,
    open: () => [],
    onError: () => undefined,
  });
  const app: FastifyInstance = fastify({ serverFactory: () => port.server });
  app.get(PATH, async () => ANSWER);
  await app.ready();
  return (await port.listen({ host: '127.0.0.1', port: 0 }, HTTP_FLAGS)).port;
}

/** Starts a server with this layer and all below it in this process; answers its port. */
async function serve(layer: Layer): Promise<number> {
  const has = (wanted: Layer): boolean => place(layer) >= place(wanted);
  if (!has('front')) return has('port') ? serveOnPort() : serveFastify();
  const shared = new Map<string, number>();
  const limits = new Limits({
    levels: { l1: RATE, l2: RATE, l3: RATE, l4: RATE, l5: RATE },
    shared: {
      add: (key, by) => {
        shared.set(key, (shared.get(key) ?? 0) + by);
        return Promise.resolve(shared.get(key) ?? 0);
      },
    },
    now: Date.now,
    refused: () => undefined,
    onShared: () => undefined,
  });
  const metrics = createMetrics({
    version: '1',
    databaseConnections: () => 0,
    pluginMemory: () => [],
    upstreams: () => [],
  });
  const logs = createLogs({ level: 'info', format: 'json', pluginLines: 1, now: Date.now });
  const tracer = await Traces.open(
    {
      otlp_endpoint: has('traced-1') ? process.env['COLLECTOR'] : undefined,
      otlp_headers: undefined,
      service_name: 'noa',
      trace_ratio: has('traced-100') ? 1 : 0.01,
      trace_parent: 'honour',
      trace_max_per_second: 100,
    },
    { version: '1', instance: 'bench', observe: metrics.spans, log: logs.logger('traces') },
  );
  const front = await startFront({
    gateway: new Gateway({
      authenticator: new Authenticator({
        credentials: [{ token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } }],
        lookup: lookup(process.env['KEY'] ?? ''),
        now: Date.now,
      }),
      ...(has('policy') && { limits, policy: { default_policy: 'allow', policies: POLICIES } }),
      denied: () => undefined,
    }),
    hosts: { list: () => Promise.resolve([]) },
    observe: has('metrics') ? metrics.http : () => undefined,
    access: has('log') ? logs.access : () => undefined,
    tracer,
  });
  return front.port;
}

/** The host as a user starts it, with all of it. */
async function serveHost(): Promise<number> {
  const folder = process.env['NOA_DATA__PATH'] ?? '';
  const host = await startHost(loadConfig({ env: process.env, cwd: folder }), () => undefined);
  process.once('disconnect', () => void host.stop().then(() => process.exit()));
  return Number(new URL(host.url).port);
}

/** Asks for as long as LOAD_MS and tells its parent what came of it. */
async function load(port: number, { request, answerEnd }: Shot): Promise<void> {
  const clients = Array.from(
    { length: CONNECTIONS },
    () => new Client(port, { request, answerEnd }),
  );
  const until = async (end: number): Promise<number[]> => {
    const times: number[] = [];
    using _awake = stayAwake();
    const drive = async (client: Client): Promise<void> => {
      for (let at = performance.now(); at < end;) {
        await client.one();
        const now = performance.now();
        times.push(now - at);
        at = now;
      }
    };
    await Promise.all(clients.map(drive));
    return times.sort((a, b) => a - b);
  };
  await until(performance.now() + LOAD_MS / 4);
  const started = performance.now();
  const times = await until(started + LOAD_MS);
  const perSecond = times.length / ((performance.now() - started) / 1000);
  const p = (part: number): number => times[Math.floor(times.length * part)] ?? Number.NaN;
  for (const client of clients) client.close();
  process.send?.({ perSecond, p50: p(0.5), p99: p(0.99) } satisfies Load);
}

interface Load {
  readonly perSecond: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
}

async function loadOn(port: number, { request, answerEnd }: Shot): Promise<Load> {
  const args = ['load', String(port), request, answerEnd];
  const child = fork(import.meta.filename, args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const [result] = (await once(child, 'message')) as [Load];
  child.disconnect();
  return result;
}

async function bench(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'noa-bench-'));
  await chmod(folder, 0o755); // run by root, PostgreSQL is another user
  const collector = createServer((request, response) => {
    request.resume().on('end', () => response.end());
  });
  await new Promise<void>((done) => collector.listen(0, '127.0.0.1', done));
  const { port: collectorPort } = collector.address() as AddressInfo;
  const { token, key } = await issue();
  const env = {
    PATH: process.env['PATH'],
    KEY: key,
    COLLECTOR: `http://127.0.0.1:${collectorPort}`,
    NOA_DATA__PATH: folder,
    NOA_SERVER__PORT: '0',
    NOA_OBSERVABILITY__METRICS_PORT: '0',
    NOA_OBSERVABILITY__LOG_FORMAT: 'json',
    NOA_AUTH__BOOTSTRAP_TOKEN: ADMIN,
  };
  // A token is longer than the operator's credential: those that do not look at it read as much.
  const asked = (layer: Layer): Shot => shot(PATH, layer === 'front' ? ADMIN : token, BODY);
  const servers = new Map<Server, ServerProcess>();
  for (const name of [...LAYERS.map(([layer]) => layer), FIELDS] as const) {
    const file = import.meta.filename;
    const sent = asked(name === FIELDS ? 'fastify' : name);
    servers.set(name, await ServerProcess.start(file, name, env, sent));
  }
  for (const each of servers.values()) await each.send(WARM_UP, CONNECTIONS);
  await layers(servers);

  const live = shot('/health', ADMIN, '}');
  const host = await ServerProcess.start(import.meta.filename, 'host', env, live);
  const floor = await loadOn(servers.get('fastify')?.port ?? 0, asked('fastify'));
  const front = await loadOn(servers.get(AIMED_AT)?.port ?? 0, asked(AIMED_AT));
  const whole = await loadOn(host.port, live);
  print(
    `requests a second of one process, ${CONNECTIONS} connections, a load generator beside it:`,
  );
  for (const [name, { perSecond, p50, p99 }] of Object.entries({
    'bare fastify': floor,
    'all layers, traces of 1 in 100': front,
    'host, GET /health': whole,
  })) {
    const part = (perSecond / floor.perSecond).toFixed(2);
    const times = `p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`;
    print(`  ${name.padEnd(32)} ${perSecond.toFixed(0)} (${part} of fastify), ${times}`);
  }
  for (const each of [host, ...servers.values()]) await each.close();
  collector.closeAllConnections();
  collector.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}

/**
 * Lets the servers take turns, so that a disturbance of the machine meets all of them, and each begin a
 * round once, for the first has a processor that was idle.
 */
async function layers(servers: ReadonlyMap<Server, ServerProcess>): Promise<void> {
  const all = [...servers];
  const costs = new Map<Server, number[]>(all.map(([name]) => [name, []]));
  for (let round = 0; round < ROUNDS; round += 1) {
    const first = round % all.length;
    for (const [name, each] of [...all.slice(first), ...all.slice(0, first)]) {
      costs.get(name)?.push(await each.round(REQUESTS, CONNECTIONS));
    }
  }
  const cost = (name: Server): number => median(costs.get(name) ?? []);
  const floor = cost('fastify');
  let below = 0;
  for (const [layer, title] of LAYERS) {
    const ratio = cost(layer) / floor;
    const own = below === 0 ? '' : `, by itself ${(ratio - below).toFixed(2)}`;
    print(
      `${title.padEnd(46)} ${cost(layer).toFixed(1)} µs, ${ratio.toFixed(2)} times fastify${own}`,
    );
    below = ratio;
  }
  const fields = cost(FIELDS);
  print(
    `bare fastify with the same fields ${fields.toFixed(1)} µs, ${(fields / floor).toFixed(2)} times fastify; ` +
      `all layers are ${(cost(AIMED_AT) / fields).toFixed(2)} times that`,
  );
  const ratio = cost(AIMED_AT) / floor;
  const verdict = ratio <= AIM ? 'met' : 'MISSED';
  print(`all layers : fastify = ${ratio.toFixed(2)} (aim ${AIM}: ${verdict})`);
}

const [, , name, port, request = '', answerEnd = ''] = process.argv;
const layer = LAYERS.map(([each]) => each).find((each) => each === name);
if (name === 'load') await load(Number(port), { request, answerEnd });
else if (name === 'host') report(await serveHost());
else if (layer === undefined && name !== FIELDS) await bench();
else {
  process.once('disconnect', () => process.exit());
  report(await (layer === undefined ? serveFastify(true) : serve(layer)));
}
