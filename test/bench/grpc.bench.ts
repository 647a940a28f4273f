/**
 * What does a gRPC call cost? CPU of the server process for one unary call that a plugin's export answers,
 * with credential, policy, rate limit, metrics and access log, against a plain grpc-js server on a port of
 * its own that answers the same message and does none of it. The export is a function, so that the sandbox
 * is not in it. Under a minute.
 */
import { Client, credentials, Metadata, Server, ServerCredentials } from '@grpc/grpc-js';
import { Limits } from '../../host/gateway/limits.ts';
import { createLogs } from '../../host/telemetry/logs.ts';
import { createMetrics } from '../../host/telemetry/metrics.ts';
import { loadProtos } from '../../host/transports/grpc/protos.ts';
import { manifest, READER } from '../transports/front.ts';
import { startGrpc } from '../transports/grpc-front.ts';
import { BenchProcess, median, report, stayAwake } from './load.ts';

const AIM = 1.2;
const NAME = 'noa.api.v1.InferenceService/Invoke';
const SERVERS = ['plain', 'noa'] as const;
const IN_FLIGHT = 32;
const WARM_UP = 20_000;
const CALLS = 6000;
const ROUNDS = 9;
const RATE = 1e9;
const REQUEST = { prompt: 'How far is the moon?' };
const ANSWER = { text: 'About 384,400 kilometres.' };

const print = (text: string): void => void process.stdout.write(`${text}\n`);

function definition() {
  const method = loadProtos().methods.get(NAME);
  if (method === undefined) throw new Error(`proto/ has no ${NAME}`);
  return method.definition;
}

async function servePlain(): Promise<number> {
  const server = new Server();
  const invoke = definition();
  const service = { invoke: { ...invoke, requestStream: false, responseStream: false } };
  server.addService(service, {
    invoke: (_call: unknown, answer: (error: null, value: object) => void) => {
      answer(null, { request_id: 'a', status: 'ok', ...ANSWER });
    },
  });
  return new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) resolve(port);
      else reject(error);
    });
  });
}

async function serveNoa(): Promise<number> {
  const metrics = createMetrics({
    version: '1',
    databaseConnections: () => 0,
    pluginMemory: () => [],
    upstreams: () => [],
  });
  const logs = createLogs({ level: 'info', format: 'json', pluginLines: 1, now: Date.now });
  const limits = new Limits({
    levels: { l1: RATE, l2: RATE, l3: RATE, l4: RATE, l5: RATE },
    shared: { add: (_key, by) => Promise.resolve(by) },
    now: Date.now,
    refused: () => undefined,
    onShared: () => undefined,
  });
  const front = await startGrpc(
    { observe: metrics.grpc, access: logs.access },
    { limits, policy: { default_policy: 'allow' } },
  );
  const answers = manifest({
    name: 'answers',
    limits: { concurrency: IN_FLIGHT },
    exports: { invoke: {} },
    contributes: { grpc: [{ method: NAME, export: 'invoke' }] },
  });
  await front.install(answers, { invoke: () => ANSWER });
  return front.port;
}

/** Calls over one connection, so many of them at a time. */
class Caller {
  readonly #client: Client;
  readonly #metadata = new Metadata();
  readonly #method = definition();

  constructor(port: number) {
    this.#client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
    this.#metadata.set('authorization', `Bearer ${READER}`);
  }

  async send(calls: number): Promise<void> {
    using _awake = stayAwake();
    let left = calls;
    const drive = async (): Promise<void> => {
      while (left > 0) {
        left -= 1;
        await this.#one();
      }
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, drive));
  }

  #one(): Promise<void> {
    const { path, requestSerialize, responseDeserialize } = this.#method;
    return new Promise((resolve, reject) => {
      const take = (error: Error | null): void => (error === null ? resolve() : reject(error));
      this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        REQUEST,
        this.#metadata,
        take,
      );
    });
  }

  close(): void {
    this.#client.close();
  }
}

async function bench(): Promise<void> {
  const [floor, ours] = await Promise.all(
    SERVERS.map(async (name) => {
      const server = await BenchProcess.launch(import.meta.filename, name);
      const caller = new Caller(server.port);
      const costs: number[] = [];
      return { server, caller, costs };
    }),
  );
  if (floor === undefined || ours === undefined) throw new Error('two servers were to be started');
  for (const { caller } of [floor, ours]) await caller.send(WARM_UP);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const { server, caller, costs } of round % 2 === 0 ? [floor, ours] : [ours, floor]) {
      const before = await server.cpu();
      await caller.send(CALLS);
      costs.push(((await server.cpu()) - before) / CALLS);
    }
  }
  const plain = median(floor.costs);
  const noa = median(ours.costs);
  const ratio = noa / plain;
  print(`plain grpc-js     ${plain.toFixed(1)} µs of CPU a call`);
  print(`NOA, all layers   ${noa.toFixed(1)} µs of CPU a call`);
  print(`NOA : grpc-js = ${ratio.toFixed(2)} (aim ${AIM}: ${ratio <= AIM ? 'met' : 'MISSED'})`);
  for (const { server, caller } of [floor, ours]) {
    caller.close();
    await server.close();
  }
}

const server = SERVERS.find((name) => name === process.argv[2]);
if (server === undefined) await bench();
else {
  process.once('disconnect', () => process.exit());
  report(await (server === 'plain' ? servePlain() : serveNoa()));
}
