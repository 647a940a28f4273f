/** Groups of upstreams against real servers on loopback, most of them failing or hostile. */
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import type { Json } from '@noa/sdk/host';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import type { Backend, BackendCall, GenerateItem } from '../../capabilities/inference/backend.ts';
import { MAX_EVENT_LENGTH, SseDecoder } from '../../capabilities/inference/upstreams/sse.ts';
import { createUpstreams } from '../../capabilities/inference/upstreams/upstreams.ts';
import { loadConfig } from '../../host/config.ts';
import { upstreams as key } from '../../host/config/upstreams.ts';
import { eventually, failure } from './database.ts';

type Behaviour = (
  request: IncomingMessage,
  response: ServerResponse,
  body: { [name: string]: Json },
) => void | Promise<void>;

const SECRET = 'sk-a-key-that-nobody-may-see';

/** A server that answers as `behaviour` says, and what it has seen. */
async function serve(t: Test, behaviour: Behaviour) {
  const seen: { path: string; headers: IncomingMessage['headers']; body: { [n: string]: Json } }[] =
    [];
  const state = { closed: 0 };
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    response.on('close', () => {
      if (!response.writableFinished) state.closed += 1;
    });
    let text = '';
    for await (const chunk of request) text += String(chunk);
    const body = (text === '' ? {} : JSON.parse(text)) as { [name: string]: Json };
    seen.push({ path: request.url ?? '', headers: request.headers, body });
    await behaviour(request, response, body);
  };
  const server = createServer((request, response) => void handle(request, response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  return { url, seen, state };
}

/** A backend over one group `g`, as a configuration would make it. */
function group(t: Test, members: readonly object[], more: object = {}) {
  const tables = [{ name: 'g', models: [{ id: 'm' }], members, ...more }];
  const resolve = (text: string) => (text === 'env:KEY' ? SECRET : text);
  const settings = key.read(tables, '/', resolve);
  if (settings === undefined) throw new Error(key.fault?.(tables, resolve));
  const warnings: string[] = [];
  const backend = createUpstreams(settings, { warn: (message) => warnings.push(message) });
  t.teardown(() => backend.close());
  return { backend, warnings };
}

function frame(more: Partial<BackendCall> = {}): BackendCall {
  const { deadline = Date.now() + 10_000 } = more;
  const signal = AbortSignal.timeout(deadline - Date.now());
  return { plugin: 'notes', signal, deadline, ...more };
}

function generate(
  backend: Backend,
  more: object = {},
  call = frame(),
): AsyncIterator<GenerateItem> {
  const request = { model: 'g/m', messages: [{ role: 'user', content: 'hi' }], parameters: {} };
  const items = backend.generate?.({ ...request, ...more }, call);
  if (items === undefined) throw new Error('it cannot generate');
  return items[Symbol.asyncIterator]();
}

async function collect(items: AsyncIterator<GenerateItem>) {
  const all: GenerateItem[] = [];
  for (let next = await items.next(); !next.done; next = await items.next()) all.push(next.value);
  const text = all.map(({ delta }) => (delta?.['content'] ?? '') as string).join('');
  return { text, last: all.at(-1), all };
}

const event = (value: object) => `data: ${JSON.stringify(value)}\n\n`;
const token = (content: string) => event({ choices: [{ index: 0, delta: { content } }] });
const FINISH = event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] });
const USAGE = event({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 2 } });
const stream = (response: ServerResponse) =>
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
const json = (response: ServerResponse, value: Json, status = 200, headers = {}) =>
  response
    .writeHead(status, { 'content-type': 'application/json', ...headers })
    .end(JSON.stringify(value));
/** Resolves when the reader took what was written, or hung up. */
const room = (response: ServerResponse) =>
  new Promise<void>((resolve) => {
    const done = (): void => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
const good: Behaviour = (_request, response) => {
  stream(response).end(`${token('Hel')}${token('lo')}${FINISH}${USAGE}data: [DONE]\n\n`);
};

t.test('events come out the same wherever the bytes are cut', async (t) => {
  const text =
    '\uFEFF: comment\r\ndata: {"a":"é😀"}\r\n\r\nevent: x\rdata: one\rdata:two\r\rid: 4\n\ndata\n\ndata: last';
  const bytes = Buffer.from(text);
  const expected = ['{"a":"é😀"}', 'one\ntwo', '', 'last'];
  const read = (parts: readonly Uint8Array[]) => {
    const decoder = new SseDecoder();
    return [...parts.flatMap((part) => decoder.push(part)), ...decoder.end()];
  };
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    t.strictSame(read([bytes.subarray(0, cut), bytes.subarray(cut)]), expected, `cut at ${cut}`);
  }
  t.strictSame(read([...bytes].map((byte) => Uint8Array.of(byte))), expected, 'byte by byte');
  const pieces = fc.array(
    fc.oneof(
      fc.constantFrom('\r', '\n', '\r\n', 'data:', 'data: ', ':', ' ', 'é', '😀'),
      fc.string(),
    ),
  );
  fc.assert(
    fc.property(pieces, fc.array(fc.nat(400)), fc.uint8Array(), (some, cuts, raw) => {
      const whole = Buffer.concat([Buffer.from(some.join('')), raw]);
      const at = [0, ...cuts.map((cut) => Math.min(cut, whole.length)).toSorted((a, b) => a - b)];
      const parts = at.map((from, index) => whole.subarray(from, at[index + 1]));
      t.strictSame(read(parts), read([whole]));
    }),
    { numRuns: 200 },
  );
  const line = Buffer.alloc(64 << 10, 0x61);
  t.throws(() => {
    const decoder = new SseDecoder();
    for (let size = 0; size <= MAX_EVENT_LENGTH; size += line.length) decoder.push(line);
  }, RangeError);
  t.throws(() => {
    const decoder = new SseDecoder();
    const lines = Buffer.from('data:\n'.repeat(1024));
    for (let size = 0; size <= MAX_EVENT_LENGTH; size += 1024) decoder.push(lines);
  }, RangeError);
});

t.test('chat and completion stream, with the usage that the upstream tells', async (t) => {
  const server = await serve(t, (request, response, body) => {
    if (request.url === '/v1/chat/completions') return good(request, response, body);
    const answer = { choices: [{ index: 0, text: 'went on', finish_reason: 'length' }] };
    return void json(response, answer);
  });
  const { backend } = group(t, [{ url: server.url, key: 'env:KEY', models: { m: 'their/m' } }]);
  const chat = await collect(generate(backend, { parameters: { temperature: 0.5 } }));
  t.equal(chat.text, 'Hello');
  t.strictSame(chat.last, {
    finishReason: 'stop',
    usage: { promptTokens: 7, completionTokens: 2 },
  });
  t.match(server.seen[0], {
    path: '/v1/chat/completions',
    headers: { authorization: `Bearer ${SECRET}`, 'accept-encoding': 'identity' },
    body: {
      model: 'their/m',
      temperature: 0.5,
      stream: true,
      stream_options: { include_usage: true },
    },
  });
  const more = { messages: undefined, prompt: 'It' };
  const completion = await collect(generate(backend, more));
  t.equal(completion.text, 'went on', 'one JSON answer in place of a stream');
  t.strictSame(completion.last, {
    finishReason: 'length',
    usage: { promptTokens: 1, completionTokens: 2, estimated: true },
  });
  for (const parameters of [{ stream: false }, { model: 'x' }, { n: 2 }]) {
    const error = await failure(collect(generate(backend, { parameters })));
    t.equal(error.code, 'INVALID_ARGUMENT');
  }
});

t.test('vectors arrive in order, of unit length, as base64 or numbers, in batches', async (t) => {
  const server = await serve(t, (_request, response, { input, encoding_format: form }) => {
    const data = (input as string[]).map((text, index) => {
      const row = [Number(text), 0, 4];
      const packed = Buffer.from(Float32Array.from(row).buffer).toString('base64');
      return { index, embedding: form === 'base64' ? packed : row };
    });
    json(response, { data: data.toReversed(), usage: { prompt_tokens: 5, total_tokens: 5 } });
  });
  for (const embed_encoding of ['base64', 'float']) {
    const more = { models: [{ id: 'm', task: 'embedding' }], embed_batch: 2, embed_encoding };
    const { backend } = group(t, [{ url: server.url }], more);
    const request = { model: 'g/m', texts: ['3', '0', '-3'], truncate: true };
    const answer = await backend.embed?.(request, frame());
    t.equal(answer?.dimensions, 3);
    t.equal(answer?.tokens, 10, 'two batches');
    const near = [0.6, 0, 0.8, 0, 0, 1, -0.6, 0, 0.8];
    const off = near.map((value, index) => Math.abs(value - (answer?.vectors[index] ?? NaN)));
    t.ok(Math.max(...off) < 1e-6, embed_encoding);
    const wrong = await failure(
      Promise.resolve(backend.embed?.({ ...request, dimensions: 2 }, frame())),
    );
    t.match(wrong, { code: 'UNAVAILABLE', message: /other than 2 dimensions/ });
  }
});

t.test('vectors that are none are refused', async (t) => {
  const answers: Json[] = [
    { data: [] },
    { data: [{ index: 0, embedding: [0, 0] }] },
    { data: [{ index: 0, embedding: ['x', 1] }] },
    { data: [{ index: 7, embedding: [1] }] },
    { data: [{ index: 0, embedding: 'AAA=' }] },
    { data: [{ index: 0, embedding: null }] },
    { data: {} },
    [],
    'no',
  ];
  let answer: Json = null;
  const server = await serve(t, (_request, response) => void json(response, answer));
  for (answer of answers) {
    const { backend } = group(t, [{ url: server.url }], { attempts: 1 });
    const request = { model: 'g/m', texts: ['a'], truncate: true };
    const error = await failure(Promise.resolve(backend.embed?.(request, frame())));
    t.equal(error.code, 'UNAVAILABLE', JSON.stringify(answer));
  }
});

t.test('scores come in the order of the texts', async (t) => {
  const server = await serve(t, (_request, response) => {
    const results = [
      { index: 1, relevance_score: 0.9 },
      { index: 0, relevance_score: 0.1 },
    ];
    json(response, { results, usage: { total_tokens: 4 } });
  });
  const more = { rerank: true, models: [{ id: 'm', task: 'rerank' }] };
  const { backend } = group(t, [{ url: server.url }], more);
  const answer = await backend.rerank?.({ model: 'g/m', query: 'q', texts: ['a', 'b'] }, frame());
  t.strictSame(answer, { scores: [0.1, 0.9], tokens: 4 });
  t.equal(server.seen[0]?.path, '/v1/rerank');
});

t.test('before the first byte another member takes over, whatever went wrong', async (t) => {
  const ways: { [name: string]: Behaviour } = {
    '503': (_request, response) => void response.writeHead(503).end(),
    '429': (_request, response) => void json(response, {}, 429, { 'retry-after': '30' }),
    '401': (_request, response) => void json(response, {}, 401),
    '404': (_request, response) => void json(response, {}, 404),
    redirect: (_request, response) =>
      void response.writeHead(307, { location: 'http://127.0.0.1:1/' }).end(),
    'wrong type': (_request, response) =>
      void response.writeHead(200, { 'content-type': 'text/html' }).end('<p>Hello'),
    'gzip bomb': (_request, response) =>
      void response
        .writeHead(200, { 'content-type': 'text/event-stream', 'content-encoding': 'gzip' })
        .end(gzipSync(Buffer.alloc(64 << 20))),
    reset: (request) => void request.socket.destroy(),
    'reset after the head': (request, response) => {
      stream(response).flushHeaders();
      setTimeout(() => request.socket.destroy(), 20);
    },
    hang: () => {},
    'hang after the head': (_request, response) => stream(response).flushHeaders(),
    'no HTTP': (request) => void request.socket.end('nonsense\r\n\r\n'),
  };
  for (const [name, behaviour] of Object.entries(ways)) {
    const bad = await serve(t, behaviour);
    const fine = await serve(t, good);
    const members = [{ url: bad.url }, { url: fine.url, order: 1 }];
    const { backend } = group(t, members, { first_byte_ms: 200 });
    t.equal((await collect(generate(backend))).text, 'Hello', name);
    t.equal(bad.seen.length, 1, `${name}: the first was asked once`);
    if (name === '404') continue;
    t.equal((await collect(generate(backend))).text, 'Hello');
    t.equal(bad.seen.length, 1, `${name}: it is left alone for a while`);
  }
});

t.test('one member is tried again after a pause; attempts and time are bounded', async (t) => {
  let failures = 2;
  const server = await serve(t, (request, response, body) => {
    failures -= 1;
    if (failures >= 0) return void response.writeHead(500).end();
    return good(request, response, body);
  });
  const { backend } = group(t, [{ url: server.url }]);
  const began = Date.now();
  t.equal((await collect(generate(backend))).text, 'Hello');
  t.equal(server.seen.length, 3);
  t.ok(Date.now() - began >= 300, 'with pauses, the second twice as long');
  failures = 100;
  const error = await failure(collect(generate(backend)));
  t.match(error, { code: 'UNAVAILABLE', message: /upstream group g failed \(status 500\)/ });
  t.equal(server.seen.length, 6);
  const short = group(t, [{ url: server.url }], { retry_for_ms: 0 });
  await failure(collect(generate(short.backend)));
  t.equal(server.seen.length, 7, 'no time for another');
});

t.test('Retry-After is honoured: waited for when short, handed on when long', async (t) => {
  let wait: { [name: string]: string } | undefined = { 'retry-after': '1' };
  const server = await serve(t, (request, response, body) => {
    if (wait === undefined) return good(request, response, body);
    const headers = wait;
    if (wait['retry-after'] === '1') wait = undefined;
    return void json(response, { error: { message: 'slow down' } }, 429, headers);
  });
  const { backend } = group(t, [{ url: server.url }]);
  const began = Date.now();
  t.equal((await collect(generate(backend))).text, 'Hello');
  t.ok(Date.now() - began >= 950);
  wait = { 'retry-after': new Date(Date.now() + 60_000).toUTCString() };
  const error = await failure(collect(generate(backend)));
  t.equal(error.code, 'RATE_LIMITED');
  const { retryAfterMs = 0 } = error;
  t.ok(retryAfterMs > 55_000 && retryAfterMs <= 60_000);
  t.match(await failure(collect(generate(backend))), { code: 'RATE_LIMITED' });
  t.equal(server.seen.length, 3, 'nobody asks in the meantime');
  await t.rejects(backend.check(), { code: 'UNAVAILABLE' });
  t.match(await backend.find('g/m'), { state: 'failed', reason: /no more requests/ });
});

t.test('refusals are mapped, bounded and clean, and never hold the key', async (t) => {
  let status = 0;
  const message = `bad\u0000\u001b[31m value \u202e ${SECRET} ${'x'.repeat(10_000)}`;
  const server = await serve(t, (_request, response) => {
    json(response, { error: { message } }, status);
  });
  const codes: [number, string][] = [
    [400, 'INVALID_ARGUMENT'],
    [401, 'UNAVAILABLE'],
    [403, 'UNAVAILABLE'],
    [404, 'NOT_FOUND'],
    [413, 'PAYLOAD_TOO_LARGE'],
    [422, 'INVALID_ARGUMENT'],
    [429, 'RATE_LIMITED'],
    [500, 'UNAVAILABLE'],
    [302, 'UNAVAILABLE'],
    [204, 'UNAVAILABLE'],
  ];
  for (const [given, code] of codes) {
    status = given;
    const one = group(t, [{ url: server.url, key: 'env:KEY' }], { attempts: 1 });
    const error = await failure(collect(generate(one.backend)));
    t.equal(error.code, code, `${given}`);
    t.ok(error.message.length < 500);
    t.notMatch(error.message, /[\p{C}]/u);
    const told = `${error.message}${JSON.stringify(error)}${one.warnings.join('')}`;
    t.notOk(told.includes(SECRET));
    t.notOk(error.message.includes('127.0.0.1'), 'callers learn no address');
    if (given === 400) t.match(error.message, /refuses the request: bad \[31m value \[key\]/);
    if (given === 401) t.match(one.warnings, [/^the upstream group g at http.* refuses the key/]);
  }
});

t.test('a break in the middle is an error after what had come, and is not repeated', async (t) => {
  const ways: { [name: string]: [Behaviour, RegExp] } = {
    reset: [
      async (request, response) => {
        stream(response).write(token('Hel'));
        await sleep(30);
        request.socket.destroy();
      },
      /broke off/,
    ],
    'an early end': [(_request, response) => void stream(response).end(token('Hel')), /broke off/],
    silence: [(_request, response) => void stream(response).write(token('Hel')), /stopped/],
    'no JSON': [
      (_request, response) => void stream(response).end(`${token('Hel')}data: {\n\n`),
      /no JSON/,
    ],
    'deep JSON': [
      (_request, response) =>
        void stream(response).end(`${token('Hel')}data: ${'['.repeat(1e5)}\n\n`),
      /no JSON, or too much/,
    ],
    'another form': [
      (_request, response) => void stream(response).end(`${token('Hel')}${event({ a: 1 })}`),
      /no form that is known/,
    ],
    'an error event': [
      (_request, response) =>
        void stream(response).end(`${token('Hel')}${event({ error: { message: 'no memory' } })}`),
      /gave up on its answer: no memory/,
    ],
    'a line of 100 MB': [
      async (_request, response) => {
        stream(response).write(token('Hel'));
        response.on('error', () => {});
        const part = Buffer.alloc(1 << 20, 0x61);
        for (let size = 0; size < 100 && !response.destroyed; size += 1) {
          if (!response.write(part)) await room(response);
        }
      },
      /too much at once/,
    ],
  };
  for (const [name, [behaviour, message]] of Object.entries(ways)) {
    const server = await serve(t, behaviour);
    const { backend } = group(t, [{ url: server.url }], { idle_ms: 300 });
    const items = generate(backend);
    t.strictSame(await items.next(), { done: false, value: { delta: { content: 'Hel' } } }, name);
    const error = await failure(collect(items));
    t.match(error, { code: 'UNAVAILABLE', message }, name);
    t.equal(server.seen.length, 1, `${name}: not repeated`);
  }
});

t.test('bytes that are no UTF-8 become replacement characters', async (t) => {
  const server = await serve(t, (_request, response) => {
    const [before, after] = token('a|b').split('|');
    stream(response).write(before);
    response.write(Buffer.of(0xff, 0xc3));
    response.end(`${after}${FINISH}data: [DONE]\n\n`);
  });
  const { backend } = group(t, [{ url: server.url }]);
  t.equal((await collect(generate(backend))).text, 'a\ufffd\ufffdb');
});

t.test('a caller that leaves is seen by the upstream, before and within the answer', async (t) => {
  for (const begun of [false, true]) {
    const server = await serve(t, (_request, response) => {
      if (begun) stream(response).write(token('Hel'));
    });
    const { backend } = group(t, [{ url: server.url }]);
    const leaving = new AbortController();
    const items = generate(backend, {}, frame({ signal: leaving.signal }));
    if (begun) await items.next();
    const rest = failure(collect(items));
    await eventually(async () => {
      if (server.seen.length !== 1) throw new Error('not yet asked');
    });
    leaving.abort();
    t.equal((await rest).code, 'CANCELLED');
    await eventually(async () => {
      if (server.state.closed !== 1) throw new Error('the connection is open');
    });
    t.equal(server.seen.length, 1, 'and nothing is tried again');
  }
  const server = await serve(t, (_request, response) => void stream(response).write(token('Hel')));
  const { backend } = group(t, [{ url: server.url }]);
  const items = generate(backend);
  await items.next();
  await items.return?.();
  await eventually(async () => {
    if (server.state.closed !== 1) throw new Error('the connection is open');
  });
  t.pass('so is one that wants no more');
  const late = await failure(collect(generate(backend, {}, frame({ deadline: Date.now() + 200 }))));
  t.equal(late.code, 'DEADLINE_EXCEEDED');
});

t.test('a slow reader holds the upstream back, and is not taken for its silence', async (t) => {
  const sent = { bytes: 0, blocked: false };
  const part = token('x'.repeat(8192));
  const server = await serve(t, async (_request, response) => {
    stream(response);
    while (!response.destroyed && sent.bytes < 200 << 20) {
      sent.bytes += part.length;
      if (response.write(part)) continue;
      sent.blocked = true;
      await room(response);
    }
  });
  const { backend } = group(t, [{ url: server.url }], { idle_ms: 1000 });
  const items = generate(backend);
  await items.next();
  let before = -1;
  await eventually(async () => {
    const stands = sent.bytes === before;
    before = sent.bytes;
    await sleep(100);
    if (!stands) throw new Error('it still writes');
  });
  t.ok(sent.blocked, 'its write blocks');
  t.ok(sent.bytes < 32 << 20, `after ${sent.bytes} bytes, which lie in the sockets`);
  await sleep(1500);
  t.notOk((await items.next()).done, 'the time of a slow reader is not the upstream’s');
  const error = await failure(collect(items));
  t.match(error, { code: 'UNAVAILABLE', message: /more than \d+ bytes/ }, 'an endless one ends');
});

t.test('answers without end, and requests without end, have a bound', async (t) => {
  const server = await serve(t, async (_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.on('error', () => {});
    while (!response.destroyed) {
      if (!response.write(Buffer.alloc(1 << 20, 0x20))) {
        await room(response);
      }
    }
  });
  const { backend } = group(t, [{ url: server.url }]);
  const request = { model: 'g/m', texts: ['a'], truncate: true };
  const error = await failure(Promise.resolve(backend.embed?.(request, frame())));
  t.match(error, { code: 'UNAVAILABLE', message: /more than 8388608 bytes/ });

  const hanging = await serve(t, () => {});
  const narrow = group(t, [{ url: hanging.url }], { max_requests: 4 });
  const leaving = new AbortController();
  const call = frame({ signal: leaving.signal });
  const running = [1, 2, 3].map(() => failure(collect(generate(narrow.backend, {}, call))));
  await eventually(async () => {
    if (hanging.seen.length !== 3) throw new Error('not yet');
  });
  const full = await failure(collect(generate(narrow.backend)));
  t.match(full, { code: 'RESOURCE_EXHAUSTED', retryAfterMs: 1000 });
  const other = failure(collect(generate(narrow.backend, {}, { ...call, plugin: 'other' })));
  await eventually(async () => {
    if (hanging.seen.length !== 4) throw new Error('not yet');
  });
  leaving.abort();
  for (const each of [...running, other]) t.equal((await each).code, 'CANCELLED');
});

t.test('models are asked of the members when first needed, and kept', async (t) => {
  let isAway = true;
  const ids = ['text-embed-3', 'chat', 'my-rerank', 'no good', 'x'.repeat(200), 7];
  const server = await serve(t, (request, response, body) => {
    if (isAway) return void response.writeHead(502).end();
    if (request.url !== '/v1/models') return good(request, response, body);
    return void json(response, { data: ids.map((id) => ({ id })) });
  });
  const { backend } = group(t, [{ url: server.url }], { models: undefined });
  t.equal(server.seen.length, 0);
  t.strictSame(await backend.models(), [], 'other backends are listed all the same');
  t.match(await failure(backend.find('g/chat').then(String)), { code: 'UNAVAILABLE' });
  isAway = false;
  const second = group(t, [{ url: server.url }], { models: undefined });
  const views = await second.backend.models();
  t.match(views, [
    { id: 'g/text-embed-3', task: 'embedding', backend: 'g', state: 'ready' },
    { id: 'g/chat', task: 'generation' },
  ]);
  t.equal(views.length, 2);
  const before = server.seen.length;
  t.equal(await second.backend.find('g/none'), undefined);
  t.equal(await second.backend.find('h/chat'), undefined);
  t.equal(await second.backend.find('chat'), undefined);
  t.equal(await second.backend.find('g/chat', '9'), undefined);
  t.equal((await collect(generate(second.backend, { model: 'g/chat' }))).text, 'Hello');
  t.equal(server.seen.length, before + 1, 'the list was kept');
  const lost = await failure(collect(generate(second.backend, { model: 'g/none' })));
  t.equal(lost.code, 'NOT_FOUND');
});

t.test('members share by weight, and each is asked only for what it has', async (t) => {
  const one = await serve(t, good);
  const two = await serve(t, good);
  const members = [{ url: one.url }, { url: two.url, weight: 9, models: { m: 'm' } }];
  const { backend } = group(t, members, { models: [{ id: 'm' }, { id: 'other' }] });
  for (let calls = 0; calls < 60; calls += 1) await collect(generate(backend));
  t.ok(two.seen.length > one.seen.length, `${two.seen.length} against ${one.seen.length}`);
  const before = two.seen.length;
  for (let calls = 0; calls < 5; calls += 1) await collect(generate(backend, { model: 'g/other' }));
  t.equal(two.seen.length, before);
});

t.test('the configuration: keys by reference alone, and faults with their place', async (t) => {
  const read = (tables: unknown, env = {}) => {
    const cwd = t.testdir({});
    mkdirSync(join(cwd, 'config'));
    writeFileSync(join(cwd, 'config/default.toml'), '');
    const NOA_INFERENCE__UPSTREAMS = JSON.stringify(tables);
    return loadConfig({ env: { ...env, NOA_INFERENCE__UPSTREAMS }, cwd }).inference.upstreams;
  };
  const members = [{ url: 'https://models.example.com/v1', key: 'env:MODELS_KEY' }];
  const [made] = read([{ name: 'g', members }], { MODELS_KEY: SECRET }) ?? [];
  t.match(made, { name: 'g', attempts: 3, members: [{ key: SECRET, order: 0, weight: 1 }] });
  const wrong: [object, RegExp][] = [
    [{ name: 'g', members: [{ ...members[0], key: SECRET }] }, /0\/members\/0\/key must be a ref/],
    [{ name: 'local', members }, /\/0\/name/],
    [{ name: 'g', members: [{ url: 'ftp://x' }] }, /\/0\/members\/0\/url/],
    [{ name: 'g', members: [{ url: 'http://u:p@x/' }] }, /\/0\/members\/0\/url/],
    [{ name: 'g', members: [] }, /\/0\/members/],
    [{ name: 'g', members, models: [{ id: 'a' }, { id: 'a' }] }, /another model/],
    [{ name: 'g', members, models: [{ id: 'a', task: 'rerank' }] }, /set rerank = true/],
    [
      { name: 'g', members: [{ url: 'http://x', models: { b: 'b' } }], models: [{ id: 'a' }] },
      /names b, which is not in models/,
    ],
  ];
  for (const [table, message] of wrong) {
    const told = t.throws(() => read([table], { MODELS_KEY: SECRET }), { message });
    t.notOk(String(told).includes(SECRET));
  }
});
