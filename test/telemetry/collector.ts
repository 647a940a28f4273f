/** A collector of traces: takes OTLP over HTTP and reads its protobuf messages (opentelemetry-proto, trace v1). */
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface CollectedSpan {
  readonly traceId: string;
  readonly spanId: string;
  /** Empty for the first of a trace. */
  readonly parentId: string;
  readonly name: string;
  readonly kind: 'internal' | 'server' | 'client' | 'producer' | 'consumer' | undefined;
  /** Nanoseconds since the epoch. */
  readonly start: bigint;
  readonly end: bigint;
  readonly attributes: Record<string, unknown>;
  readonly failed: boolean;
  readonly resource: Record<string, unknown>;
}

export class Collector {
  readonly url: string;
  readonly spans: CollectedSpan[] = [];
  /** All that was sent, as it came. */
  raw = '';
  readonly requests: { readonly path: string; readonly headers: IncomingHttpHeaders }[] = [];
  /** What it answers; undefined leaves requests without an answer. */
  status: number | undefined = 200;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async start(port = 0): Promise<Collector> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    const collector = new Collector(server);
    server.on('request', (request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        collector.requests.push({ path: request.url ?? '', headers: request.headers });
        if (collector.status === undefined) return;
        if (collector.status === 200) collector.#take(Buffer.concat(chunks));
        response.writeHead(collector.status, { 'content-type': 'application/x-protobuf' }).end();
      });
    });
    return collector;
  }

  #take(body: Buffer): void {
    this.raw += body.toString('latin1');
    for (const group of messages(body, 1)) {
      const resource = attributesOf(messages(group, 1)[0] ?? Buffer.alloc(0), 1);
      for (const scope of messages(group, 2)) {
        for (const span of messages(scope, 2)) this.spans.push(readSpan(span, resource));
      }
    }
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

const KINDS = [undefined, 'internal', 'server', 'client', 'producer', 'consumer'] as const;
const FAILED = 2n;

function readSpan(span: Buffer, resource: Record<string, unknown>): CollectedSpan {
  const hex = (field: number): string => (messages(span, field)[0] ?? '').toString('hex');
  const number = (field: number): bigint => numbers(span, field)[0] ?? 0n;
  const [status = Buffer.alloc(0)] = messages(span, 15);
  return {
    traceId: hex(1),
    spanId: hex(2),
    parentId: hex(4),
    name: (messages(span, 5)[0] ?? '').toString(),
    kind: KINDS[Number(number(6))],
    start: number(7),
    end: number(8),
    attributes: attributesOf(span, 9),
    failed: numbers(status, 3)[0] === FAILED,
    resource,
  };
}

function attributesOf(message: Buffer, field: number): Record<string, unknown> {
  const pairs = messages(message, field).map((pair): [string, unknown] => {
    const [name = '', value = Buffer.alloc(0)] = [messages(pair, 1)[0], messages(pair, 2)[0]];
    const [text] = messages(value, 1);
    const [truth] = numbers(value, 2);
    const [whole] = numbers(value, 3);
    const [real] = numbers(value, 4);
    if (text !== undefined) return [name.toString(), text.toString()];
    if (truth !== undefined) return [name.toString(), truth === 1n];
    if (whole !== undefined) return [name.toString(), Number(whole)];
    return [name.toString(), Buffer.from(new BigUint64Array([real ?? 0n]).buffer).readDoubleLE()];
  });
  return Object.fromEntries(pairs);
}

function messages(message: Buffer, field: number): Buffer[] {
  return [...fields(message)].flatMap(([number, value]) =>
    number === field && typeof value !== 'bigint' ? [value] : [],
  );
}

function numbers(message: Buffer, field: number): bigint[] {
  return [...fields(message)].flatMap(([number, value]) =>
    number === field && typeof value === 'bigint' ? [value] : [],
  );
}

/** The fields of a message in the wire format of Protocol Buffers. */
function* fields(message: Buffer): Generator<[number: number, value: bigint | Buffer]> {
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message.readUInt8(at++);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const tag = Number(varint());
    switch (tag & 7) {
      case 0:
        yield [tag >> 3, varint()];
        break;
      case 1:
        yield [tag >> 3, message.readBigUInt64LE(at)];
        at += 8;
        break;
      case 2: {
        const length = Number(varint());
        yield [tag >> 3, message.subarray(at, at + length)];
        at += length;
        break;
      }
      case 5:
        yield [tag >> 3, BigInt(message.readUInt32LE(at))];
        at += 4;
        break;
      default:
        throw new Error(`no protobuf: wire type ${tag & 7}`);
    }
  }
}
