/**
 * What benches over HTTP share: clients that send the next request when they have the whole answer to
 * the last, and servers in processes of their own, whose processor time is asked for.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

/** A request as its bytes, and what its answer, with status 200, ends in. */
export interface Shot {
  readonly request: string;
  readonly answerEnd: string;
}

/** One keep-alive connection. */
export class Client {
  readonly #socket: Socket;
  readonly #shot: Shot;
  #pending = '';
  #answered: (() => void) | undefined;

  constructor(port: number, shot: Shot) {
    this.#shot = shot;
    this.#socket = connect(port, '127.0.0.1').setNoDelay().setEncoding('latin1');
    this.#socket.on('data', (text: string) => this.#read(text));
    this.#socket.on('end', () => this.#socket.destroy(new Error('the server ended a connection')));
  }

  #read(text: string): void {
    this.#pending += text;
    if (!this.#pending.startsWith('HTTP/1.1 200')) throw new Error(this.#pending);
    if (!this.#pending.endsWith(this.#shot.answerEnd)) return;
    this.#pending = '';
    this.#answered?.();
  }

  one(): Promise<void> {
    return new Promise<void>((resolve) => {
      this.#answered = resolve;
      this.#socket.write(this.#shot.request);
    });
  }

  async send(count: number): Promise<void> {
    for (let sent = 0; sent < count; sent += 1) await this.one();
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** A server in a process of its own: the bench's own file, run with the server's name. */
export class BenchProcess {
  readonly port: number;
  readonly #child: ChildProcess;

  protected constructor({ child, port }: Started) {
    this.#child = child;
    this.port = port;
  }

  static async launch(file: string, name: string, env: Env = process.env): Promise<BenchProcess> {
    return new BenchProcess(await launch(file, name, env));
  }

  /** Microseconds of all its threads until now. */
  async cpu(): Promise<number> {
    const answer = once(this.#child, 'message');
    this.#child.send('cpu');
    const [micros] = (await answer) as [number];
    return micros;
  }

  async close(): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.disconnect();
    await ended;
  }
}

type Env = Readonly<Record<string, string | undefined>>;

interface Started {
  readonly child: ChildProcess;
  readonly port: number;
}

async function launch(file: string, name: string, env: Env): Promise<Started> {
  const stdio = ['ignore', 'ignore', 'inherit', 'ipc'] as const;
  const child = fork(file, [name], { env, stdio: [...stdio] });
  const ended = once(child, 'exit').then(() => Promise.reject(new Error(`${name} ended`)));
  const [port] = (await Promise.race([once(child, 'message'), ended])) as [number];
  ended.catch(() => undefined);
  return { child, port };
}

/** One of HTTP/1.1, with connections to it. */
export class ServerProcess extends BenchProcess {
  readonly #shot: Shot;
  readonly #clients: Client[] = [];

  private constructor(started: Started, shot: Shot) {
    super(started);
    this.#shot = shot;
  }

  static async start(file: string, name: string, env: Env, shot: Shot): Promise<ServerProcess> {
    return new ServerProcess(await launch(file, name, env), shot);
  }

  async send(requests: number, connections: number): Promise<void> {
    const each = requests / connections;
    // Not before: a connection that asks nothing for long is closed.
    while (this.#clients.length < connections) {
      this.#clients.push(new Client(this.port, this.#shot));
    }
    const clients = this.#clients.slice(0, connections);
    using _awake = stayAwake();
    await Promise.all(clients.map((client) => client.send(each)));
  }

  /** Microseconds of CPU a request, of all threads of the process. */
  async round(requests: number, connections: number): Promise<number> {
    const before = await this.cpu();
    await this.send(requests, connections);
    return ((await this.cpu()) - before) / requests;
  }

  override async close(): Promise<void> {
    for (const client of this.#clients) client.close();
    await super.close();
  }
}

/**
 * Keeps this process from sleeping while it waits for an answer. A server that answers a sleeping client
 * pays for waking it (10 µs measured, more than the rest of a small answer), and only a server that is
 * slower than its clients finds them asleep: the slower of two would be charged for the bench.
 */
export function stayAwake(): Disposable {
  let awake = true;
  const turn = (): void => {
    if (awake) setImmediate(turn);
  };
  turn();
  return {
    [Symbol.dispose]: () => {
      awake = false;
    },
  };
}

/** The other side: tells the bench the port, and the processor time when it asks. */
export function report(port: number): void {
  process.on('message', () => {
    const { user, system } = process.cpuUsage();
    process.send?.(user + system);
  });
  process.send?.(port);
}

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}
