/** A client of server-sent events over plain HTTP that keeps what it gets, and can stop to read. */
import { once } from 'node:events';
import { get, type IncomingMessage, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

export interface SseFrame {
  readonly event: string | undefined;
  readonly id: string | undefined;
  readonly data: string;
}

export class SseClient {
  readonly response: IncomingMessage;
  text = '';
  ended = false;

  private constructor(response: IncomingMessage) {
    this.response = response;
    response.setEncoding('utf8');
    response.on('error', () => undefined); // an end too
    response.on('close', () => (this.ended = true));
  }

  /** Resolves with the head of the answer. `paused` reads nothing of its body until `read`. */
  static async open(
    url: string,
    token: string,
    {
      headers = {},
      paused = false,
      body,
    }: { headers?: Record<string, string>; paused?: boolean; body?: string } = {},
  ): Promise<SseClient> {
    const options = {
      agent: false,
      headers: { authorization: `Bearer ${token}`, accept: 'text/event-stream', ...headers },
    };
    const sent =
      body === undefined
        ? get(url, options)
        : request(url, {
            ...options,
            method: 'POST',
            headers: { ...options.headers, 'content-type': 'application/json' },
          }).end(body);
    const [response] = (await once(sent, 'response')) as [IncomingMessage];
    sent.on('error', () => undefined);
    const client = new SseClient(response);
    if (!paused) client.read();
    return client;
  }

  read(): void {
    this.response.on('data', (text: string) => (this.text += text));
  }

  /** Comments and `retry` apart. */
  get frames(): SseFrame[] {
    return this.text
      .split('\n\n')
      .slice(0, -1)
      .flatMap((block) => {
        const fields = new Map(
          block.split('\n').map((line) => {
            const colon = line.indexOf(':');
            return [line.slice(0, colon), line.slice(colon + 2)] as const;
          }),
        );
        const data = fields.get('data');
        return data === undefined
          ? []
          : [{ event: fields.get('event'), id: fields.get('id'), data }];
      });
  }

  get ids(): number[] {
    return this.frames.flatMap(({ id }) => (id === undefined ? [] : [Number(id)]));
  }

  close(): void {
    this.response.destroy();
  }
}

/** Waits until `probe` answers true; throws after a time that only a broken host needs. */
export async function until(what: string, probe: () => boolean, ms = 30_000): Promise<void> {
  const end = Date.now() + ms;
  while (!probe()) {
    if (Date.now() > end) throw new Error(`never happened: ${what}`);
    await sleep(5);
  }
}
