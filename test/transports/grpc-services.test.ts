/** gRPC: health, reflection and the examples of proto/README.md, with `buf curl` as their user would. */
import { readFile } from 'node:fs/promises';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:http2';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { status } from '@grpc/grpc-js';
import t from 'tap';
import { loadProtos } from '../../host/transports/grpc/protos.ts';
import { ADMIN, manifest, READER } from './front.ts';
import { buf, BUF, GrpcClient, headers, startGrpc } from './grpc-front.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const CHECK = 'grpc.health.v1.Health/Check';
const WATCH = 'grpc.health.v1.Health/Watch';
const INVOKE = 'noa.api.v1.InferenceService/Invoke';
const REFLECT = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';
const settings = { max_body_bytes: 64 << 10 };
const AUTHORIZATION = ['-H', `authorization: Bearer ${READER}`];

const model = manifest({
  name: 'model',
  exports: { invoke: {} },
  contributes: { grpc: [{ method: INVOKE, export: 'invoke' }] },
});

t.test('health: of the host, and of each service by whether a plugin answers it', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  const check = async (service: string) =>
    (await front.call(CHECK, { service }, headers(null))).message['status'];
  t.equal(await check(''), 'SERVING');
  t.equal(await check('noa.api.v1.EventService'), 'SERVING');
  t.equal(await check('noa.api.v1.InferenceService'), 'NOT_SERVING');
  await t.rejects(check('no.such.Service'), { code: status.NOT_FOUND });

  const watch = front.stream(WATCH, { service: 'noa.api.v1.InferenceService' }, headers(null));
  const unknown = front.stream(WATCH, { service: 'no.such.Service' }, headers(null));
  t.strictSame(await watch.count(1), [{ status: 'NOT_SERVING' }]);
  t.strictSame(await unknown.count(1), [{ status: 'SERVICE_UNKNOWN' }]);
  await front.install(model, { invoke: () => ({ text: 'yes' }) });
  t.strictSame((await watch.count(2))[1], { status: 'SERVING' });
  t.equal(await check('noa.api.v1.InferenceService'), 'SERVING');

  const host = front.stream(WATCH, {}, headers(null));
  await host.count(1);
  front.grpc.drain();
  t.equal(await check(''), 'NOT_SERVING');
  for (const stream of [watch, unknown, host]) {
    t.match(await stream.ended, { code: status.UNAVAILABLE });
  }
});

t.test('watches are bounded in number', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  const second = new GrpcClient(`127.0.0.1:${front.port}`);
  t.teardown(() => second.close());
  const watch = ({ stream }: Pick<GrpcClient, 'stream'>) => stream(WATCH, {}, headers(null));
  const streams = Array.from({ length: 256 }, (_, i) => watch(i < 128 ? front : second.bound()));
  await Promise.all(streams.map((stream) => stream.count(1)));
  t.match(await watch(front).ended, { code: status.RESOURCE_EXHAUSTED });
  streams[0]?.call.cancel();
  while (front.observed.length < 2) await sleep(5);
  await watch(front).count(1);
});

t.test('reflection lists all services, and all of them can be called through it', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await front.install(model, { invoke: (input) => ({ text: JSON.stringify(input) }) });
  const { port } = front;
  const services = (await buf(port, '', '--list-services')).trim().split('\n');
  t.strictSame(services, [...loadProtos().services].toSorted());
  const methods = (await buf(port, '', '--list-methods')).trim().split('\n');
  t.strictSame(methods, [...loadProtos().methods.keys()].toSorted());

  const data = ['-d', '{"prompt":"hi","metadata_json":"{\\"a\\":1}"}'];
  const answer = JSON.parse(await buf(port, `/${INVOKE}`, ...AUTHORIZATION, ...data)) as object;
  t.match(answer, { text: /"metadata":{"a":1}/, requestId: /^[0-9a-f]{16}$/ });
  t.match(await buf(port, `/${CHECK}`, '-d', '{}'), /"status":\s*"SERVING"/);
  for (const version of ['v1', 'v1alpha']) {
    const listed = await buf(
      port,
      `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
      '-d',
      '{"listServices":"*"}',
      '--reflect-protocol',
      `grpc-${version}`,
    );
    t.match(listed, /noa.api.v1.InferenceService/);
  }
  await t.rejects(buf(port, `/${INVOKE}`, '-d', '{}'), /"code": "unauthenticated"/);
});

t.test(
  'reflection asks for a credential where the operator says so, or is not there',
  async (t) => {
    const closed = await startGrpc({ settings: { ...settings, grpc_reflection: 'authenticated' } });
    t.teardown(() => closed.close());
    await t.rejects(buf(closed.port, '', '--list-services'), /not authenticated/);
    const all = ['--list-services', ...AUTHORIZATION, '--reflect-header', '*'];
    t.match(await buf(closed.port, '', ...all), /noa.ui.UiSchemaService/);
    t.match(closed.logged.at(-1), { subject: 'reader' });
    const off = await startGrpc({ settings: { ...settings, grpc_reflection: 'off' } });
    t.teardown(() => off.close());
    await t.rejects(buf(off.port, '', '--list-services'), /reflection/);
  },
);

t.test('who asks and does not read is waited for', async (t) => {
  const front = await startGrpc();
  const session = connect(`http://127.0.0.1:${front.port}`);
  t.teardown(async () => {
    session.destroy();
    await front.close();
  });
  const definition = loadProtos().methods.get(REFLECT.slice(1))?.definition;
  if (definition === undefined) throw new TypeError(REFLECT);
  const ask = definition.requestSerialize({ file_containing_symbol: INVOKE.split('/')[0] });
  const stream = session.request({
    ':method': 'POST',
    ':path': REFLECT,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  const head = Buffer.alloc(5);
  head.writeUInt32BE(ask.length, 1);
  const asks = 20_000;
  stream.write(Buffer.concat(Array.from({ length: asks }, () => [head, ask]).flat()));
  let left = 0;
  do {
    left = stream.writableLength;
    await sleep(1000);
  } while (stream.writableLength !== left);
  t.ok(left > 0, `${left} bytes of questions are not taken`);
  let bytes = 0;
  stream.on('data', (chunk: Buffer) => (bytes += chunk.length));
  stream.end();
  await once(stream, 'end');
  t.ok(bytes > 500 * asks, 'and all are answered once the answers are read');
});

t.test('the protocol buffers are as buf wants them', async (t) => {
  const { stdout } = await promisify(execFile)(BUF, ['lint', 'proto'], { cwd: ROOT });
  t.equal(stdout, '');
  await promisify(execFile)(BUF, ['format', '--exit-code', 'proto'], { cwd: ROOT });
});

t.test('the examples of proto/README.md', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await front.install(model, { invoke: () => ({ text: 'Vienna' }) });
  front.events.publish('orders.created', { id: 1 });
  const text = await readFile(join(ROOT, 'proto/README.md'), 'utf8');
  const examples = [
    ...text.matchAll(/```sh\n([^`]+)```\n+(?:It answers:\n+```json\n([^`]+)```)?/g),
  ];
  t.ok(examples.length >= 3);
  for (const [, command = '', answer] of examples) {
    const env = {
      ...process.env,
      NOA_TOKEN: ADMIN,
      PATH: `${join(BUF, '..')}:${process.env['PATH']}`,
    };
    const line = command.replaceAll('127.0.0.1:8080', `127.0.0.1:${front.port}`);
    const { stdout } = await promisify(execFile)('/bin/sh', ['-c', line], { cwd: ROOT, env });
    if (answer === undefined) t.ok(stdout.length > 0, command);
    else t.match(JSON.parse(stdout), JSON.parse(answer), command);
  }
});
