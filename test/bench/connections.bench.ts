/**
 * What do connections cost that stay open? Memory of the server process (resident, after a collection) for
 * 5,000 WebSockets that say nothing, over what it takes before them; then events sent to 1,000 readers of
 * server-sent events, who all must get every one in order, beside some that read nothing, who must neither
 * hold up the others nor have more kept for them than the bound. The front of the product in a process of
 * its own, loopback alone. Under a minute.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { WebSocket } from 'ws';
import { ADMIN, startFront } from '../transports/front.ts';
import { MemoryEvents } from '../transports/memory-events.ts';

const SOCKETS = 5000;
const AIM_MB = 120;
const ADMINS = 1000;
const EVENTS = 200;
/** Readers that read nothing, and what is sent while they do: more than is kept for any of them. */
const SLOW = 20;
const FLOOD = 4000;
const FLOOD_BYTES = 8000;
/** Published at a time; the next once all that read have them. */
const FLOOD_STEP = 100;
/** Opened at a time. */
const BATCH = 50;
const LIMIT_MS = 60_000;

interface Order {
  readonly publish: number;
  readonly bytes: number;
}

interface State {
  /** Resident, in bytes. */
  readonly memory: number;
  /** Microseconds of processor time. */
  readonly cpu: number;
}

const print = (text: string): void => void process.stdout.write(`${text}\n`);
const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

async function serve(): Promise<void> {
  process.once('disconnect', () => process.exit());
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const events = new MemoryEvents();
  const front = await startFront({
    events,
    streams: { max: 2 * SOCKETS, maxPerIdentity: 2 * SOCKETS },
  });
  process.on('message', ({ publish, bytes }: Order) => {
    const data = 'x'.repeat(bytes);
    for (let n = 0; n < publish; n += 1) events.publish('bench', data);
    if (publish === 0) for (let turn = 0; turn < 3; turn += 1) collect();
    const { user, system } = process.cpuUsage();
    process.send?.({ memory: process.memoryUsage.rss(), cpu: user + system } satisfies State);
  });
  process.send?.(front.port);
}

class Server {
  readonly port: number;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, port: number) {
    this.#child = child;
    this.port = port;
  }

  static async start(): Promise<Server> {
    const child = fork(import.meta.filename, ['serve'], { stdio: ['ignore', 2, 2, 'ipc'] });
    const [port] = (await once(child, 'message')) as [number];
    return new Server(child, port);
  }

  async order(order: Order = { publish: 0, bytes: 0 }): Promise<State> {
    const answer = once(this.#child, 'message');
    this.#child.send(order);
    const [state] = (await answer) as [State];
    return state;
  }

  async close(): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.disconnect();
    await ended;
  }
}

const authorization = `Bearer ${ADMIN}`;

async function openAll<T>(count: number, open: () => Promise<T>): Promise<T[]> {
  const opened: T[] = [];
  while (opened.length < count) {
    const batch = Math.min(BATCH, count - opened.length);
    opened.push(...(await Promise.all(Array.from({ length: batch }, open))));
  }
  return opened;
}

async function idleSockets(): Promise<void> {
  const server = await Server.start();
  const open = async (): Promise<WebSocket> => {
    const socket = new WebSocket(`ws://127.0.0.1:${server.port}/ws/stream`, {
      headers: { authorization },
      perMessageDeflate: false,
    });
    await once(socket, 'open');
    return socket;
  };
  // What the first ones load and compile is no part of what each costs.
  for (const socket of await openAll(BATCH, open)) socket.terminate();
  const before = await server.order();
  const sockets = await openAll(SOCKETS, open);
  const after = await server.order();
  const lost = sockets.filter(({ readyState }) => readyState !== WebSocket.OPEN).length;
  if (lost > 0) throw new Error(`${lost} of ${SOCKETS} idle WebSockets were closed`);
  const grown = after.memory - before.memory;
  const verdict = grown < AIM_MB * 1e6 ? 'met' : 'MISSED';
  print(
    `${SOCKETS} idle WebSockets: ${mb(grown)} over ${mb(before.memory)}, ` +
      `${(grown / SOCKETS / 1e3).toFixed(1)} KB each (aim ${AIM_MB} MB: ${verdict})`,
  );
  for (const socket of sockets) socket.terminate();
  await server.close();
}

/** Counts what it gets; the ids of the log rise by one here. */
class Reader {
  readonly #answer: IncomingMessage;
  #rest = '';
  #last = 0;
  got = 0;
  /** Events that came out of turn. */
  wrong = 0;
  ended = false;

  private constructor(answer: IncomingMessage) {
    this.#answer = answer;
    answer.setEncoding('utf8');
    answer.on('error', () => undefined).on('close', () => (this.ended = true));
  }

  static async open(port: number): Promise<Reader> {
    const url = `http://127.0.0.1:${port}/v1/events`;
    const headers = { authorization, accept: 'text/event-stream' };
    const asked = get(url, { agent: false, headers });
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    if (answer.statusCode !== 200) throw new Error(`the server answers ${answer.statusCode}`);
    asked.on('error', () => undefined); // it ends with its answer
    return new Reader(answer);
  }

  read(): void {
    this.#answer.on('data', (text: string) => {
      const lines = (this.#rest + text).split('\n');
      this.#rest = lines.pop() ?? '';
      for (const line of lines) {
        if (!line.startsWith('id: ')) continue;
        const id = Number(line.slice(4));
        if (id !== this.#last + 1) this.wrong += 1;
        this.#last = id;
        this.got += 1;
      }
    });
  }

  close(): void {
    this.#answer.destroy();
  }
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = Date.now() + LIMIT_MS; !holds(); await sleep(5)) {
    if (Date.now() > end) throw new Error(`not within ${LIMIT_MS} ms: ${what}`);
  }
}

async function fanOut(): Promise<void> {
  const server = await Server.start();
  const readers = await openAll(ADMINS, () => Reader.open(server.port));
  for (const reader of readers) reader.read();
  const before = await server.order();
  const began = performance.now();
  await server.order({ publish: EVENTS, bytes: 100 });
  await until('each reader has every event', () => readers.every(({ got }) => got >= EVENTS));
  const seconds = (performance.now() - began) / 1000;
  const after = await server.order();
  const sent = ADMINS * EVENTS;
  const wrong = readers.reduce((sum, reader) => sum + reader.wrong + reader.got - EVENTS, 0);
  print(
    `${EVENTS} events to ${ADMINS} readers: ${sent} frames, ${wrong} lost, twice or out of turn, ` +
      `${((after.cpu - before.cpu) / sent).toFixed(2)} µs of CPU each, in ${seconds.toFixed(1)} s`,
  );
  for (const reader of readers.splice(10)) reader.close();

  const slow = await openAll(SLOW, () => Reader.open(server.port));
  const calm = await server.order();
  let most = calm.memory;
  for (let sent = EVENTS; sent < EVENTS + FLOOD; sent += FLOOD_STEP) {
    const { memory } = await server.order({ publish: FLOOD_STEP, bytes: FLOOD_BYTES });
    most = Math.max(most, memory);
    await until('those that read have all', () =>
      readers.every(({ got, ended }) => got === sent + FLOOD_STEP || ended),
    );
  }
  const all = EVENTS + FLOOD;
  const whole = readers.filter(({ got, wrong: faults }) => got === all && faults === 0).length;
  for (const reader of slow) reader.read();
  await until('those that did not read are cut off', () => slow.every(({ ended }) => ended));
  print(
    `${mb(FLOOD * FLOOD_BYTES)} of events past ${SLOW} that read nothing: ${whole} of ${readers.length} beside ` +
      `them got all, at most ${mb(most - calm.memory)} more memory, all ${SLOW} cut off`,
  );
  for (const reader of readers) reader.close();
  await server.close();
  if (wrong > 0 || whole < readers.length) process.exitCode = 1;
}

if (process.argv[2] === 'serve') await serve();
else {
  await idleSockets();
  await fanOut();
}
