/** gRPC through a whole host: a WASM plugin behind the methods, on the one port, by grpc-js and `buf curl`. */
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { type ServiceError, status } from '@grpc/grpc-js';
import t from 'tap';
import { buf, GrpcClient, headers } from '../transports/grpc-front.ts';
import { bundleAt, eventually, RunningHost } from './running-host.ts';

const INVOKE = 'noa.api.v1.InferenceService/Invoke';
const STREAM = 'noa.api.v1.InferenceService/Stream';
const EXECUTE = 'noa.api.v1.OrchestrationService/Execute';

/** Answers /known, and keeps whoever asks for anything else waiting. */
const asked: IncomingMessage[] = [];
const server = createServer((request, response) => {
  asked.push(request);
  if (request.url === '/known') response.end('known');
});
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
t.teardown(() => {
  server.closeAllConnections();
  server.close();
});
const address = server.address();
if (typeof address !== 'object' || address === null) throw new Error('the server has no port');
const { port: known } = address;
const url = `http://127.0.0.1:${known}`;

const oracle = (): Promise<Uint8Array> => bundleAt('test/fixtures/plugins/oracle', known);

t.test('a plugin answers gRPC calls of a host', async (t) => {
  const host = await RunningHost.start({ env: { NOA_PLUGINS__HTTP_PRIVATE_HOSTS: '127.0.0.1' } });
  t.teardown(() => host.dispose());
  const { port } = new URL(host.url);
  const client = new GrpcClient(`127.0.0.1:${port}`);
  t.teardown(() => client.close());
  const credential = headers(host.token);
  const failure = async (method: string, message: Record<string, unknown>) =>
    (await client
      .call(method, message, credential)
      .catch((error: unknown) => error)) as ServiceError;

  t.equal((await failure(INVOKE, { prompt: 'a' })).code, status.UNIMPLEMENTED);
  await host.install(await oracle());
  const pending = await failure(INVOKE, { prompt: 'a' });
  t.equal(pending.code, status.FAILED_PRECONDITION);
  t.strictSame(pending.metadata.get('noa-code'), ['GRANT_PENDING']);
  await host.approve('oracle');
  t.match((await host.get('/v1/plugins/oracle')).body, { grpc: [INVOKE, STREAM, EXECUTE] });
  t.match(await host.cli('plugin', 'show', 'oracle'), {
    stdout: /grpc +noa\.api\.v1\.InferenceService\/Invoke/,
  });

  await t.test('once, and piece by piece', async (t) => {
    const { message } = await client.call(INVOKE, { prompt: 'why' }, credential);
    t.match(message, { text: 'why!', result_json: '{"length":3}', request_id: /^[0-9a-f]{16}$/ });
    const stream = client.stream(STREAM, { prompt: 'one two three' }, credential);
    t.match(await stream.ended, { code: status.OK });
    t.match(stream.all, [
      { text: 'one' },
      { text: 'two' },
      { text: 'three' },
      { finish_reason: 'stop' },
    ]);
  });

  await t.test('with its own codes, and its schema before it', async (t) => {
    const unknown = await failure(INVOKE, { prompt: 'unknown' });
    t.match(unknown, { code: status.NOT_FOUND, details: 'nobody knows that' });
    t.equal((await failure(INVOKE, {})).code, status.INVALID_ARGUMENT);
    const anonymous = client.call(INVOKE, { prompt: 'a' }, headers(null));
    await t.rejects(anonymous, { code: status.UNAUTHENTICATED });
  });

  await t.test('by buf curl, through reflection', async (t) => {
    const authorization = ['-H', `authorization: Bearer ${host.token}`];
    const data = ['-d', JSON.stringify({ prompt: 'x', metadataJson: `{"url":"${url}/known"}` })];
    const answer = await buf(Number(port), `/${INVOKE}`, ...authorization, ...data);
    t.match(JSON.parse(answer), { text: 'known' });
    t.match(await buf(Number(port), '', '--list-services'), /grpc\.health\.v1\.Health/);
    const health = await buf(Number(port), '/grpc.health.v1.Health/Check', '-d', '{}');
    t.match(JSON.parse(health), { status: 'SERVING' });
  });

  await t.test(
    'a caller that leaves ends the capability call that the plugin waits for',
    async (t) => {
      asked.length = 0;
      let cancel = (): void => undefined;
      const waits = { prompt: 'x', metadata_json: `{"url":"${url}/silent"}` };
      const call = client.call(INVOKE, waits, credential, { cancel: (way) => (cancel = way) });
      await eventually('the plugin asks', () => Promise.resolve(asked.length === 1));
      const [request] = asked;
      if (request === undefined) throw new Error('nobody asked');
      t.notOk(request.socket.destroyed);
      const cut = once(request.socket, 'close');
      cancel();
      await t.rejects(call, { code: status.CANCELLED });
      await cut;

      t.comment('and so does a deadline');
      const late = client.call(INVOKE, waits, credential, { deadline: Date.now() + 500 });
      await t.rejects(late, { code: status.DEADLINE_EXCEEDED });
      await eventually('it is cut', () => Promise.resolve(asked.at(-1)?.socket.destroyed ?? false));
      t.equal(asked.length, 2);
      t.match((await client.call(INVOKE, { prompt: 'on' }, credential)).message, { text: 'on!' });
    },
  );

  await t.test('the ids of events are those of REST; the streams end with the host', async (t) => {
    const follow = client.stream('noa.ui.UiSchemaService/StreamEvents', { since: '0' }, credential);
    await client.call(EXECUTE, { task: 'w-1' }, credential);
    const [event] = await follow.count(1);
    t.match(event, {
      event_type: 'workflow/state',
      workflow_id: 'w-1',
      payload_json: '{"state":"running"}',
    });
    const { body } = await host.request('GET', '/v1/events', undefined, {
      accept: 'application/json',
    });
    t.match(body, { events: [{ id: event?.['id'], subject: 'workflow/w-1' }] });
    const { body: metrics } = await host.request('GET', '/metrics');
    const labels = 'service="noa.api.v1.InferenceService",method="Invoke",code="CANCELLED"';
    t.match(metrics['text'], `grpc_server_handled_total{${labels}} `);
    await host.stop();
    t.match(await follow.ended, { code: status.UNAVAILABLE });
  });

  await t.test('what was called is in the log, and no credential', async (t) => {
    t.match(host.output, `"route":"${INVOKE}"`);
    t.notMatch(host.output, host.token);
  });
});
