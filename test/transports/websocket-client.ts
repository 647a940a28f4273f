/** A WebSocket client that keeps the JSON frames that it gets. */
import { once } from 'node:events';
import { WebSocket } from 'ws';

export type Frame = Record<string, unknown>;

export class Client {
  readonly socket: WebSocket;
  readonly frames: Frame[] = [];
  closed: { code: number; reason: string } | undefined;

  constructor(url: string, protocols: string[] = [], headers: Record<string, string> = {}) {
    this.socket = new WebSocket(url.replace('http', 'ws'), protocols, { headers });
    this.socket.on('message', (data: Buffer) => {
      this.frames.push(JSON.parse(data.toString()) as Frame);
    });
    this.socket.on('close', (code, reason: Buffer) => {
      this.closed = { code, reason: reason.toString() };
    });
    this.socket.on('error', () => undefined); // `close` follows
  }

  static async open(url: string, token: string): Promise<Client> {
    const client = new Client(url, [], { authorization: `Bearer ${token}` });
    await once(client.socket, 'open');
    return client;
  }

  send(frame: object): void {
    this.socket.send(JSON.stringify(frame));
  }

  of(type: string): Frame[] {
    return this.frames.filter((frame) => frame['type'] === type);
  }

  get ids(): number[] {
    return this.of('event').map(({ event }) => Number((event as { id: string }).id));
  }
}
