/** gRPC: plugins behind the methods, the gateway before them, deadlines, cancellation, bounds; by real clients. */
import { type Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { GRPC_METHODS, NoaError, type Manifest } from '@noa/sdk/host';
import t from 'tap';
import { Limits } from '../../host/gateway/limits.ts';
import { loadProtos } from '../../host/transports/grpc/protos.ts';
import { bundle, type Exports, manifest, READER } from './front.ts';
import { headers, startGrpc } from './grpc-front.ts';

const INVOKE = 'noa.api.v1.InferenceService/Invoke';
const STREAM = 'noa.api.v1.InferenceService/Stream';
const RETRIEVE = 'noa.api.v1.RetrievalService/Retrieve';
const EXECUTE = 'noa.api.v1.OrchestrationService/Execute';

const answers = manifest({
  name: 'answers',
  exports: { invoke: {}, stream: { stream: true }, retrieve: {}, execute: {} },
  contributes: {
    grpc: [
      { method: INVOKE, export: 'invoke' },
      { method: STREAM, export: 'stream' },
      { method: RETRIEVE, export: 'retrieve' },
      { method: EXECUTE, export: 'execute' },
    ],
  },
});

const functions: Exports = {
  invoke: (input) => ({ text: JSON.stringify(input), usage: { total_tokens: 3 }, result: [1] }),
  retrieve: () => ({ hits: [{ id: 'a', score: 0.5, payload: { deep: true } }] }),
  execute: () => ({ workflow_id: 'w-1', state: 'running', request_id: 'mine' }),
  stream: () => ({ text: 'end' }),
};

t.test('the methods that a manifest may name are those of proto/ that plugins answer', (t) => {
  const own = ['EventService/Subscribe', 'UiSchemaService/StreamEvents'];
  const theirs = [...loadProtos().methods.values()].filter(
    ({ name }) => name.startsWith('noa.') && !own.some((each) => name.endsWith(each)),
  );
  const listed = theirs.map(({ name, definition }) => `${name} ${definition.responseStream}`);
  const named = [...GRPC_METHODS].map(([name, { stream }]) => `${name} ${stream}`);
  t.strictSame(listed.toSorted(), named.toSorted());
  t.end();
});

t.test('a method is answered by the export of a plugin', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await front.install(answers, functions);

  const { message, metadata } = await front.call(
    INVOKE,
    { prompt: 'hello', metadata_json: '{"model":"m"}' },
    headers(READER, {
      'x-request-id': 'call-7',
      traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-00`,
    }),
  );
  t.match(message, { request_id: 'call-7', usage: { total_tokens: 3 }, result_json: '[1]' });
  t.strictSame(JSON.parse(String(message['text'])), {
    prompt: 'hello',
    protocol: '',
    metadata_json: '{"model":"m"}',
    metadata: { model: 'm' },
  });
  t.strictSame(metadata.get('x-request-id'), ['call-7']);
  t.match(metadata.get('traceparent')[0], new RegExp(`^00-${'a'.repeat(32)}-[0-9a-f]{16}-`));
  t.match(front.observed, [
    { service: 'noa.api.v1.InferenceService', method: 'Invoke', code: 'OK' },
  ]);
  t.match(front.logged, [
    { route: INVOKE, status: 200, plugin: 'answers', subject: 'reader', requestId: 'call-7' },
  ]);

  const { message: found } = await front.call(RETRIEVE, { query: 'q' });
  t.match(found, { hits: [{ id: 'a', score: 0.5, payload_json: '{"deep":true}' }] });
  t.match(found['request_id'], /^[0-9a-f]{16}$/);
  const { message: run } = await front.call(EXECUTE, { task: 'nightly', metadata_json: 'no JSON' });
  t.match(run, { request_id: 'mine', workflow_id: 'w-1', state: 'running' });
});

t.test('who has no credential, or no right, is refused before its message is read', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await front.install(answers, functions);
  const long = { prompt: 'x'.repeat(1 << 20) };
  await t.rejects(front.call(INVOKE, long, headers(null)), {
    code: status.UNAUTHENTICATED,
    details: /authorization: is required/,
  });
  const wrong = headers('wrong-token-of-at-least-32-characters');
  const error = await front.call(INVOKE, {}, wrong).catch((caught: unknown) => caught);
  t.match(error, { code: status.UNAUTHENTICATED });
  t.strictSame((error as { metadata: Metadata }).metadata.get('noa-code'), ['UNAUTHENTICATED']);
  t.match((error as { metadata: Metadata }).metadata.get('x-request-id')[0], /^[0-9a-f]{16}$/);
  t.match(front.denied, [
    { kind: 'authentication', path: `/${INVOKE}` },
    { kind: 'authentication' },
  ]);
  t.match(await front.stream('noa.api.v1.EventService/Subscribe', {}, headers(READER)).ended, {
    code: status.PERMISSION_DENIED,
    details: /lacks the scope events:read/,
  });
  t.match(front.denied.at(-1), { kind: 'authorization', subject: 'reader' });
  t.strictSame(
    front.observed.map(({ code }) => code),
    ['UNAUTHENTICATED', 'UNAUTHENTICATED', 'PERMISSION_DENIED'],
  );
});

t.test('the rate of a caller is told, and over it the call is refused with a hint', async (t) => {
  const limits = new Limits({
    levels: { l1: 200, l2: 150, l3: 120, l4: 80, l5: 2 },
    shared: { add: (_key, by) => Promise.resolve(by) },
    now: Date.now,
    refused: () => undefined,
    onShared: () => undefined,
  });
  const front = await startGrpc({}, { limits });
  t.teardown(() => front.close());
  t.teardown(() => limits.close());
  await front.install(answers, functions);
  const { metadata } = await front.call(INVOKE, {});
  t.strictSame(metadata.get('ratelimit-limit'), ['2']);
  await front.call(INVOKE, {});
  const error = (await front.call(INVOKE, {}).catch((caught: unknown) => caught)) as ServiceError;
  t.equal(error.code, status.RESOURCE_EXHAUSTED);
  t.strictSame(error.metadata.get('noa-code'), ['RATE_LIMITED']);
  t.ok(Number(error.metadata.get('retry-after-ms')[0]) > 0);
  t.strictSame(error.metadata.get('ratelimit-remaining'), ['0']);
});

t.test('what no plugin answers is UNIMPLEMENTED, what does not serve says why', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await t.rejects(front.call(INVOKE, {}), {
    code: status.UNIMPLEMENTED,
    details: /no plugin answers noa.api.v1.InferenceService\/Invoke: install one/,
  });
  const asks = { capability: 'store', operations: ['get'], resources: ['*'], reason: 'to know' };
  await front.install({ ...answers, name: 'waits', capabilities: [asks] }, functions);
  await t.rejects(front.call(INVOKE, {}), {
    code: status.FAILED_PRECONDITION,
    details: /noa grant approve waits/,
  });
  await front.kernel.administration.setEnabled('waits', false, 'test');
  const error = (await front.call(INVOKE, {}).catch((caught: unknown) => caught)) as ServiceError;
  t.equal(error.code, status.FAILED_PRECONDITION);
  t.strictSame(error.metadata.get('noa-code'), ['PLUGIN_DISABLED']);

  t.comment('another one may take over what the disabled one claims');
  await front.install(answers, functions);
  t.match(await front.call(EXECUTE, {}), { message: { state: 'running' } });
  t.match(front.logged.at(-1), { plugin: 'answers' });
});

t.test('no two plugins answer one method', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await front.install(answers, functions);
  const second: Manifest = {
    ...answers,
    name: 'second',
    contributes: { grpc: [{ method: RETRIEVE, export: 'retrieve' }] },
  };
  const refusal = { code: 'CONFLICT', message: /RetrievalService\/Retrieve.*plugin answers/ };
  await t.rejects(front.install(second, functions), refusal);
  const { administration } = front.kernel;
  await administration.setEnabled('answers', false, 'test');
  await front.install(second, functions);
  await t.rejects(administration.setEnabled('answers', true, 'test'), refusal2());
  await administration.setEnabled('second', false, 'test');
  await administration.setEnabled('answers', true, 'test');
  await administration.remove('second', false, 'test');

  const none = { ...second, contributes: {} };
  await front.install(none, functions);
  const upgrade = bundle({ ...second, version: '1.1.0' });
  await t.rejects(administration.upgrade('second', upgrade, 'test'), refusal);
  t.match(await front.call(RETRIEVE, {}), { message: { hits: [{ id: 'a' }] } });
});

function refusal2() {
  return { code: 'CONFLICT', message: /RetrievalService\/Retrieve.*plugin second/ };
}

t.test(
  'an output that is not the message is the fault of the plugin, by the name of the member',
  async (t) => {
    const front = await startGrpc();
    t.teardown(() => front.close());
    let output: unknown;
    await front.install(answers, { ...functions, invoke: () => output, retrieve: () => output });
    const wrong: [string, unknown, RegExp][] = [
      [INVOKE, { txt: 'a' }, /\/txt is no member of noa.api.v1.InvokeResponse; it has request_id/],
      [INVOKE, { text: 1 }, /\/text must be a string/],
      [INVOKE, { usage: { total_tokens: -1 } }, /\/usage\/total_tokens must be a uint32/],
      [INVOKE, 'text', /must be an object/],
      [INVOKE, { result: 1, result_json: '2' }, /a second time/],
      [RETRIEVE, { hits: [{ id: 'a' }, { idd: 'b' }] }, /\/hits\/1\/idd is no member/],
    ];
    for (const [method, value, details] of wrong) {
      output = value;
      const error = (await front
        .call(method, {})
        .catch((caught: unknown) => caught)) as ServiceError;
      t.equal(error.code, status.INTERNAL);
      t.match(error.details, details);
      t.strictSame(error.metadata.get('noa-code'), ['PLUGIN_OUTPUT_INVALID']);
    }
    output = { text: 'half \ud800 of a pair', note: null };
    t.match((await front.call(INVOKE, {})).message, { text: 'half \ufffd of a pair', note: '' });
  },
);

t.test('errors keep their code, their words and their hint', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  let error: Error = new Error();
  await front.install(answers, {
    ...functions,
    invoke: () => {
      throw error;
    },
  });
  const failure = async (): Promise<ServiceError> =>
    (await front.call(INVOKE, {}).catch((caught: unknown) => caught)) as ServiceError;
  error = new NoaError('NOT_FOUND', 'no model «größer» \ud800', { retryAfterMs: 1500.2 });
  let shown = await failure();
  t.equal(shown.code, status.NOT_FOUND);
  t.match(shown.details, 'no model «größer»');
  t.strictSame(shown.metadata.get('retry-after-ms'), ['1501']);
  error = new NoaError('CONFLICT', '界'.repeat(100_000));
  shown = await failure();
  t.equal(shown.code, status.FAILED_PRECONDITION);
  t.equal(shown.details.length, 801);
  error = new TypeError('/etc/host/secret');
  shown = await failure();
  t.equal(shown.code, status.INTERNAL);
  t.notMatch(shown.details, /secret/);
  t.match(front.errors, [{ message: '/etc/host/secret' }]);

  t.comment(
    'metadata_json that is too much, or reaches for prototypes, is the fault of the caller',
  );
  for (const metadata_json of ['['.repeat(200) + ']'.repeat(200), '{"__proto__":1}']) {
    await t.rejects(front.call(INVOKE, { metadata_json }), {
      code: status.INVALID_ARGUMENT,
      details: /^metadata_json: /,
    });
  }
});
