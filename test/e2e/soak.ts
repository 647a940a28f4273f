/**
 * Not part of the suite, but run by `npm run soak`, for two minutes or NOA_TEST_SOAK_SECONDS.
 *
 * Everything at once on a host of two workers: REST over HTTP/1.1 and
 * HTTP/2, gRPC, server-sent events and WebSockets, while workers are replaced and killed, the whole host is
 * killed, and rights come and go. A call may be cut off when a process dies; an answer that comes is never a
 * wrong one, and no event that was acknowledged is lost or comes twice.
 */
import { connect, constants, type IncomingHttpHeaders } from 'node:http2';
import { once } from 'node:events';
import { text as readAll } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { status as grpcStatus, type ServiceError } from '@grpc/grpc-js';
import t from 'tap';
import { GrpcClient, headers } from '../transports/grpc-front.ts';
import { SseClient } from '../transports/sse.ts';
import { Client as SocketClient } from '../transports/websocket-client.ts';
import { type Answer, bundleOf, eventually, repacked, RunningHost } from './running-host.ts';

const SOAK_MS = Number(process.env['NOA_TEST_SOAK_SECONDS'] ?? 120) * 1000;
const INVOKE = 'noa.api.v1.InferenceService/Invoke';
const STREAM = 'noa.api.v1.InferenceService/Stream';
const EXECUTE = 'noa.api.v1.OrchestrationService/Execute';
const SUBSCRIBE = 'noa.api.v1.EventService/Subscribe';

t.setTimeout(SOAK_MS + 110_000);

const host = await RunningHost.start({
  env: { NOA_SERVER__WORKERS: '2', NOA_GATEWAY__LEVELS__L1: '1000000' },
});
t.teardown(() => host.dispose());
const publishing = {
  capability: 'events',
  operations: ['publish'],
  resources: ['workflow/*'],
  reason: 'Tells how its runs go.',
};
for (const bundle of [
  await bundleOf('plugins/examples/notes'),
  await bundleOf('test/fixtures/plugins/keeper'),
  await repacked(await bundleOf('test/fixtures/plugins/oracle'), { capabilities: [publishing] }),
]) {
  const { name } = await host.install(bundle);
  await host.approve(String(name));
}

/** Cut off, or told to come again: nothing was answered that could be wrong. */
class Interrupted extends Error {}

const until = Date.now() + SOAK_MS;
const isOver = (): boolean => Date.now() > until;
const wrong: string[] = [];
const right = new Map<string, number>();
const cut = new Map<string, number>();
/** Whoever has neither an answer nor the end of its connection after so long waits for ever. */
const HUNG_MS = 30_000;
const hung = new Map<string, number>();
const count = (sums: Map<string, number>, name: string): void =>
  void sums.set(name, (sums.get(name) ?? 0) + 1);

function expect(is: boolean, what: string, seen?: unknown): void {
  if (!is) wrong.push(`${what}: ${JSON.stringify(seen)}`);
}

/** Does it again and again until the time is over. */
async function client(name: string, work: (turn: number) => Promise<void>): Promise<void> {
  for (let turn = 0; !isOver(); turn += 1) {
    try {
      const isDone = work(turn).then(() => true);
      if (!(await Promise.race([isDone, sleep(HUNG_MS, false, { ref: false })]))) {
        count(hung, name);
        throw new Interrupted();
      }
      count(right, name);
      await sleep(50); // other tests share the machine
    } catch (error) {
      if (!(error instanceof Interrupted)) throw error;
      count(cut, name);
      await sleep(100);
    }
  }
}

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const answer = await host.request(method, path, body).catch((error: unknown) => {
    throw new Interrupted(String(error));
  });
  if (answer.status === 503) throw new Interrupted(JSON.stringify(answer.body));
  return answer;
}

async function rest(turn: number): Promise<void> {
  const text = `note ${turn} of a soak`;
  const made = await ask('POST', '/plugins/notes/notes', { text });
  expect(made.status === 201, 'a note is made', made);
  const read = await ask('GET', `/plugins/notes/notes/${String(made.body['id'])}`);
  expect(read.status === 200 && read.body['text'] === text, 'the note is that note', read);
}

async function restOverHttp2(turn: number): Promise<void> {
  const session = connect(host.url);
  try {
    await once(session, 'connect').catch((error: unknown) => {
      throw new Interrupted(String(error));
    });
    session.on('error', () => undefined); // the stream tells
    const body = JSON.stringify({ text: `over HTTP/2, ${turn}` });
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: 'POST',
      [constants.HTTP2_HEADER_PATH]: '/plugins/notes/notes',
      authorization: `Bearer ${host.token}`,
      'content-type': 'application/json',
    });
    stream.end(body);
    // A connection that ends without a word closes its streams, which is no error to Node.
    const closed = once(stream, 'close').then(() => Promise.reject(new Error('it was closed')));
    const whole = Promise.all([
      once(stream, 'response') as Promise<[IncomingHttpHeaders & { ':status'?: number }]>,
      readAll(stream),
    ]);
    const [answer, text] = await Promise.race([whole, closed]).catch((error: unknown) => {
      throw new Interrupted(String(error));
    });
    const { ':status': status } = answer[0];
    if (status === 503 || stream.rstCode !== 0) throw new Interrupted(text);
    const noted = JSON.parse(text) as { text?: string };
    expect(status === 201 && noted.text === `over HTTP/2, ${turn}`, 'a note over HTTP/2', text);
  } finally {
    session.destroy();
  }
}

let grpc = new GrpcClient(new URL(host.url).host);
let grpcUrl = host.url;
function grpcClient(): GrpcClient {
  if (grpcUrl !== host.url) {
    grpc.close();
    grpc = new GrpcClient(new URL(host.url).host);
    grpcUrl = host.url;
  }
  return grpc;
}

function interruptedGrpc(error: unknown): never {
  const { code, details } = error as ServiceError;
  const isCut = [grpcStatus.UNAVAILABLE, grpcStatus.CANCELLED].includes(code);
  if (isCut || /RST_STREAM|ECONNRESET|goaway/i.test(details)) throw new Interrupted(details);
  throw error;
}

async function grpcUnary(turn: number): Promise<void> {
  const prompt = `why ${turn}`;
  const { message } = await grpcClient()
    .call(INVOKE, { prompt }, headers(host.token))
    .catch(interruptedGrpc);
  expect(message['text'] === `${prompt}!`, 'a gRPC answer is that of its call', message);
}

async function grpcStream(turn: number): Promise<void> {
  const prompt = `one two three ${turn}`;
  const stream = grpcClient().stream(STREAM, { prompt }, headers(host.token));
  const ended = await stream.ended;
  if (ended.code !== grpcStatus.OK) interruptedGrpc(ended);
  const words = stream.all.map(({ text }) => text).filter((text) => text !== '');
  expect(words.join(' ') === prompt, 'a gRPC stream is whole and in order', stream.all);
}

async function socketStream(turn: number): Promise<void> {
  const socket = await SocketClient.open(`${host.url}/ws/stream`, host.token).catch(
    (error: unknown) => {
      throw new Interrupted(String(error));
    },
  );
  try {
    const prompt = `over a socket ${turn}`;
    socket.send({ id: 'a', plugin: 'oracle', export: 'stream', input: { prompt } });
    while (socket.of('result').length === 0) {
      const [error] = socket.of('error');
      if (error?.['code'] === 'UNAVAILABLE' || socket.closed !== undefined) {
        throw new Interrupted(JSON.stringify(error ?? socket.closed));
      }
      expect(error === undefined, 'no error over a socket', error);
      if (error !== undefined) return;
      await sleep(5);
    }
    const words = socket.of('chunk').map(({ value }) => (value as { text: string }).text);
    expect(words.join(' ') === prompt, 'a stream over a socket', socket.frames);
  } finally {
    socket.socket.terminate();
  }
}

/** Five times the published bound, for the machine is busy. */
const BOUND_MS = 5000;

/** A change holds for every process within its bound, and then stays. */
async function settles(what: string, wanted: number, probe: () => Promise<number>): Promise<void> {
  const changed = Date.now();
  await eventually(what, async () => (await probe()) === wanted);
  await sleep(Math.max(0, changed + BOUND_MS - Date.now()));
  for (let again = 0; again < 6; again += 1) {
    const status = await probe();
    expect(status === wanted, `${what}, and stays so`, status);
  }
}

async function rights(turn: number): Promise<void> {
  const put = () =>
    ask('POST', '/v1/plugins/keeper/exports/put', { path: `docs/${turn % 5}`, text: 'x' });
  const { body } = await ask('GET', '/v1/grants?plugin=keeper');
  const grants = body['grants'] as { id: string; capability: string; status: string }[];
  const grant = grants.find(({ capability }) => capability === 'blob');
  const change = async (method: string, path: string): Promise<void> => {
    const { status } = await ask(method, path);
    expect(status === 200, `${method} of a grant`, status);
  };
  await change('DELETE', `/v1/grants/${grant?.id}`);
  await settles('what is revoked is denied', 403, async () => (await put()).status);
  await change('POST', `/v1/grants/${grant?.id}/approve`);
  await settles('what is approved is done', 200, async () => (await put()).status);
}

let secret = '';
async function tokens(turn: number): Promise<void> {
  if (secret === '') {
    const { body } = await ask('POST', '/v1/auth/clients', { id: `soak-${turn}`, level: 'L1' });
    secret = `${String(body['id'])}:${String(body['secret'])}`;
  }
  const [id = '', password = ''] = secret.split(':');
  const form = { client_id: id, client_secret: password };
  const grant = await ask('POST', '/v1/auth/token', { grant_type: 'client_credentials', ...form });
  expect(grant.status === 200, 'a client gets a token', grant.body['error']);
  const token = String(grant.body['access_token']);
  const me = async (): Promise<Answer> => {
    const authorization = { authorization: `Bearer ${token}` };
    const answer = await host
      .request('GET', '/v1/auth/me', undefined, authorization)
      .catch((error: unknown) => {
        throw new Interrupted(String(error));
      });
    if (answer.status === 503) throw new Interrupted(JSON.stringify(answer.body));
    return answer;
  };
  await settles('the token tells who it is', 200, async () => {
    const { status, body } = await me();
    expect(status !== 200 || body['subject'] === `client:${id}`, 'nobody else', body);
    return status;
  });
  const revoked = await ask('POST', '/v1/auth/revoke', { token, ...form });
  expect(revoked.status === 200, 'the token is revoked', revoked);
  // Whoever shows wrong credentials again and again is told so before they are looked at.
  await settles('the revoked token is refused', 401, async () => {
    const { status } = await me();
    return status === 429 ? 401 : status;
  });
}

const published: number[] = [];
async function publish(turn: number): Promise<void> {
  await grpcClient()
    .call(EXECUTE, { task: String(turn) }, headers(host.token))
    .catch(interruptedGrpc);
  published.push(turn);
  await sleep(20);
}

/** What one reader of the log has got: ids that rise, and the numbers of the events. */
class Reader {
  last = '0';
  readonly seen: number[] = [];
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  take({ id, subject }: { id: string; subject: string }): void {
    expect(Number(id) > Number(this.last), `${this.name}: ids rise`, { id, after: this.last });
    this.last = id;
    this.seen.push(Number(subject.slice('workflow/'.length)));
  }
}

const SUBJECTS = 'workflow/*';
const event = (data: string) => JSON.parse(data) as { id: string; subject: string };

/** Follows until told, by whichever connection there is. */
async function follow(reader: Reader, isDone: () => boolean, connectOnce: () => Promise<void>) {
  while (!isDone()) {
    await connectOnce().catch(() => count(cut, reader.name));
    await sleep(50);
  }
}

async function readBySse(reader: Reader, isDone: () => boolean): Promise<void> {
  await follow(reader, isDone, async () => {
    const url = `${host.url}/v1/events?subjects=${encodeURIComponent(SUBJECTS)}&since=${reader.last}`;
    const stream = await SseClient.open(url, host.token);
    let taken = 0;
    while (!isDone() && !stream.ended) {
      const { frames } = stream;
      for (const frame of frames.slice(taken)) {
        if (frame.id !== undefined && frame.data.includes('specversion'))
          reader.take(event(frame.data));
      }
      taken = frames.length;
      await sleep(50);
    }
    stream.close();
  });
}

async function readBySocket(reader: Reader, isDone: () => boolean): Promise<void> {
  await follow(reader, isDone, async () => {
    const socket = await SocketClient.open(`${host.url}/ws/events`, host.token);
    socket.send({ type: 'subscribe', subjects: [SUBJECTS], since: reader.last });
    let taken = 0;
    while (!isDone() && socket.closed === undefined) {
      const events = socket.of('event');
      for (const frame of events.slice(taken)) reader.take(frame['event'] as never);
      taken = events.length;
      await sleep(50);
    }
    socket.socket.terminate();
  });
}

async function readByGrpc(reader: Reader, isDone: () => boolean): Promise<void> {
  await follow(reader, isDone, async () => {
    const own = new GrpcClient(new URL(host.url).host);
    const request = { subjects: [SUBJECTS], since: reader.last };
    const stream = own.stream(SUBSCRIBE, request, headers(host.token));
    let ended = false;
    void stream.ended.then(() => (ended = true));
    let taken = 0;
    while (!isDone() && !ended) {
      for (const message of stream.all.slice(taken)) reader.take(message['event'] as never);
      taken = stream.all.length;
      await sleep(50);
    }
    own.close();
  });
}

async function disturb(): Promise<void> {
  const workers = (): number[] =>
    [...host.output.matchAll(/"pid":(\d+)[^\n]*"a worker serves"/g)].map(([, pid]) => Number(pid));
  await sleep(SOAK_MS / 5);
  host.signal('SIGHUP');
  await eventually(
    'the workers are replaced',
    () => Promise.resolve(host.output.includes('workers were replaced')),
    60_000,
  );
  await sleep(SOAK_MS / 10);
  const victim = workers().at(-1);
  if (victim === undefined) throw new Error('no worker said that it serves');
  process.kill(victim, 'SIGKILL');
  await sleep(SOAK_MS / 5);
  await host.kill();
  await host.start();
}

t.test('everything at once, and not one wrong answer', async (t) => {
  const readers = ['SSE', 'WebSocket', 'gRPC'].map((name) => new Reader(name));
  const [sse, socket, remote] = readers as [Reader, Reader, Reader];
  let isRead = false;
  const reading = Promise.all([
    readBySse(sse, () => isRead),
    readBySocket(socket, () => isRead),
    readByGrpc(remote, () => isRead),
  ]);
  await Promise.all([
    client('REST', rest),
    client('REST over HTTP/2', restOverHttp2),
    client('gRPC', grpcUnary),
    client('gRPC stream', grpcStream),
    client('WebSocket stream', socketStream),
    client('rights', rights),
    client('tokens', tokens),
    client('publish', publish),
    disturb(),
  ]);
  const missing = ({ seen }: Reader): number[] => {
    const known = new Set(seen);
    return published.filter((number) => !known.has(number));
  };
  await eventually('every reader has every event that was acknowledged', () =>
    Promise.resolve(readers.every((reader) => missing(reader).length === 0)),
  ).catch(() => undefined); // told one by one below
  isRead = true;
  await reading;
  grpc.close();

  t.strictSame(wrong, []);
  for (const reader of readers) {
    t.strictSame(missing(reader), [], `${reader.name} has missed nothing`);
    t.equal(new Set(reader.seen).size, reader.seen.length, `${reader.name} got nothing twice`);
  }
  for (const [name, times] of right) t.ok(times >= 3, `${name}: ${times} times right`);
  t.equal(right.size, 8);
  t.comment(`cut off: ${JSON.stringify(Object.fromEntries(cut))}`);
  t.strictSame([...hung], [], 'nobody waits for ever');
  t.match(await host.post('/v1/audit/verify'), { body: { ok: true } });
});
