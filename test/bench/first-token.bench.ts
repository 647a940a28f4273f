/**
 * What does the host add to the first token of a streamed answer? A server of OpenAI's API in this process
 * writes its first token after a moment; the same client reads it directly, and through the host (gateway,
 * plugin `inference`, door, upstream). Told is the time from that write to the client's first token, in
 * milliseconds; aim: the host's is within 5 ms of the direct one. Half a minute.
 */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { RunningHost } from '../e2e/running-host.ts';

const REQUESTS = 200;
const THINKING_MS = 15;
const print = (text: string): void => void process.stdout.write(`${text}\n`);

const wrote = new Map<string, number>();

async function answer(text: string, response: ServerResponse): Promise<void> {
  const { messages } = JSON.parse(text) as { messages: { content: string }[] };
  response.setHeader('content-type', 'text/event-stream');
  await sleep(THINKING_MS);
  wrote.set(messages[0]?.content ?? '', performance.now());
  response.write('data: {"choices":[{"index":0,"delta":{"content":"first"}}]}\n\n');
  await sleep(THINKING_MS);
  response.write('data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n');
  response.end('data: [DONE]\n\n');
}

const server = createServer((request, response) => {
  if (request.url === '/v1/models') {
    response.setHeader('content-type', 'application/json');
    return void response.end('{"object":"list","data":[{"id":"model","object":"model"}]}');
  }
  let text = '';
  request.setEncoding('utf8').on('data', (part: string) => (text += part));
  request.on('end', () => void answer(text, response));
  return undefined;
});
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
const direct = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
const host = await RunningHost.start({
  env: {
    NOA_PLUGINS__BUILTIN: 'inference',
    NOA_INFERENCE__UPSTREAMS: JSON.stringify([{ name: 'up', members: [{ url: `${direct}/v1` }] }]),
    NOA_GATEWAY__LEVELS__L1: '1000000',
  },
});

let last = 0;
/** Milliseconds from the write of the first token to its reading. */
async function firstToken(base: string, model: string): Promise<number> {
  const id = `request ${(last += 1)}`;
  const response = await fetch(`${base}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${host.token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model, messages: [{ role: 'user', content: id }], stream: true }),
  });
  if (response.body === null || response.status !== 200) throw new Error(await response.text());
  let at = Number.NaN;
  let text = '';
  for await (const part of response.body) {
    text += Buffer.from(part).toString();
    if (Number.isNaN(at) && text.includes('first')) at = performance.now();
  }
  return at - (wrote.get(id) ?? Number.NaN);
}

async function measure(base: string, model: string, clients: number) {
  const times: number[] = [];
  let left = REQUESTS;
  const run = async (): Promise<void> => {
    while ((left -= 1) >= 0) times.push(await firstToken(base, model));
  };
  await Promise.all(Array.from({ length: clients }, run));
  times.sort((a, b) => a - b);
  const p = (part: number): string => (times[Math.floor(times.length * part)] ?? NaN).toFixed(2);
  return `p50 ${p(0.5)}, p95 ${p(0.95)}, p99 ${p(0.99)} ms`;
}

try {
  await measure(host.url, 'up/model', 4); // warm
  for (const clients of [1, 8]) {
    print(`${clients} at a time`);
    print(`  direct            ${await measure(direct, 'model', clients)}`);
    print(`  through the host  ${await measure(host.url, 'up/model', clients)}`);
  }
} finally {
  await host.dispose();
  server.closeAllConnections();
  server.close();
}
