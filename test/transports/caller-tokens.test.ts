/**
 * Capability tokens of machine callers over gRPC, and what of a host is not their bearers' to allow: hooks, and the
 * number of tokens.
 */
import { createHash, randomUUID } from 'node:crypto';
import { status } from '@grpc/grpc-js';
import t, { type Test } from 'tap';
import { Authenticator, type Lookup } from '../../host/gateway/identity/authenticator.ts';
import { TokenService } from '../../host/kernel/tokens.ts';
import { manifest } from './front.ts';
import { headers, startGrpc } from './grpc-front.ts';

const INVOKE = 'noa.api.v1.InferenceService/Invoke';
const SUBSCRIBE = 'noa.api.v1.EventService/Subscribe';
const operator = { subject: 'root', scopes: ['admin'] };

/** A gRPC front that knows capability tokens, and a plugin behind one of its methods. */
async function start(t: Test) {
  let revision = 0;
  const lookup: Lookup = {
    get epoch() {
      return revision;
    },
    find: (text) => grpc.kernel.callers.find(text),
  };
  const grpc = await startGrpc(
    {},
    { authenticator: new Authenticator({ credentials: [], lookup, now: Date.now }) },
  );
  t.teardown(() => grpc.close());
  const { callers } = grpc.kernel;
  const model = manifest({
    name: 'model',
    exports: { invoke: {} },
    contributes: { grpc: [{ method: INVOKE, export: 'invoke' }] },
  });
  await grpc.install(model, { invoke: () => ({ text: 'ran' }) });
  return {
    ...grpc,
    callers,
    revoke: async (id: string) => {
      await callers.revoke(id, 'root');
      revision += 1;
    },
    invoke: (token: string) => grpc.call(INVOKE, { prompt: 'hi' }, headers(token)),
  };
}

void t.test('a gRPC method is called by whose token covers the export behind it', async (t) => {
  const { callers, invoke, revoke, stream } = await start(t);
  const { token, view } = await callers.mint({ caller: 'job', calls: ['model/invoke'] }, operator);
  t.match((await invoke(token)).message, { text: 'ran' });
  t.match(await stream(SUBSCRIBE, {}, headers(token)).ended, { code: status.PERMISSION_DENIED });
  const other = await callers.mint({ caller: 'job', calls: ['notes/*'] }, operator);
  const denial = await invoke(other.token).catch((error: unknown) => error);
  t.match(denial, { code: status.PERMISSION_DENIED });
  t.strictSame((denial as { metadata: ReturnType<typeof headers> }).metadata.get('noa-code'), [
    'CAPABILITY_DENIED',
  ]);

  const few = { caller: 'job', calls: ['model/*'], budget: { calls: 2 } };
  const { token: spent } = await callers.mint(few, operator);
  await invoke(spent);
  await invoke(spent);
  await t.rejects(invoke(spent), { code: status.RESOURCE_EXHAUSTED, details: /budget of calls/ });

  await revoke(view.id);
  await t.rejects(invoke(token), { code: status.UNAUTHENTICATED });
});

void t.test('a hook that judges a bearer’s request needs nothing of the token', async (t) => {
  const { callers, front, invoke } = await start(t);
  const seen: unknown[] = [];
  const guard = manifest({
    name: 'guard',
    exports: { judge: {} },
    contributes: {
      hooks: [{ on: 'beforeRequest', export: 'judge', operations: ['noa.api.v1.*'] }],
    },
  });
  await front.install(guard, {
    judge: (input) => {
      seen.push(input);
      return {};
    },
  });
  const { body } = await front.get<{ grants: { id: string }[] }>('/v1/grants?plugin=guard');
  for (const { id } of body.grants) await front.post(`/v1/grants/${id}/approve`);
  const limits = { caller: 'job', calls: ['model/*'], rights: [], budget: { calls: 1 } };
  const { token } = await callers.mint(limits, operator);
  t.match((await invoke(token)).message, { text: 'ran' }, 'the one call is the bearer’s');
  t.match(seen, [{ operation: INVOKE, subject: 'caller:job' }]);
});

void t.test(
  'whoever holds a token makes no more than a thousand of it, however deep',
  async (t) => {
    const { callers } = await start(t);
    const input = { calls: ['model/*'] };
    const { token } = await callers.mint({ caller: 'job', ...input }, operator);
    let made = 1;
    const bearer = async (text: string) => {
      const found = (await callers.find(text))?.principal.token;
      if (found === undefined) throw new TypeError('the token is not good');
      return found;
    };
    let refusal: unknown;
    for (let generation = [token]; refusal === undefined && generation.length > 0;) {
      const next: string[] = [];
      for (const parent of generation) {
        const holder = await bearer(parent);
        for (let i = 0; i < 50 && refusal === undefined; i += 1) {
          try {
            next.push((await callers.attenuate(input, holder)).token);
            made += 1;
          } catch (error) {
            refusal = error;
          }
        }
      }
      generation = next;
    }
    t.match(refusal, { code: 'RESOURCE_EXHAUSTED', message: /are 1000 already/ });
    t.equal(made, 1000);
    await t.resolves(callers.mint({ caller: 'job', ...input }, operator), 'another is not of them');
  },
);

void t.test('no token of a plugin passes for a caller’s, nor the other way round', async (t) => {
  const { callers, kernel, invoke } = await start(t);
  const tokens = new TokenService({
    issuer: 'noa',
    rootKey: createHash('sha256').update('root').digest(),
    lifeSeconds: 60,
    now: Date.now,
    newId: randomUUID,
  });
  tokens.useKeys(kernel.supervisor.snapshot.keys);
  const right = { capability: 'plugin', operations: ['call'], resources: ['*'], grants: [] };
  const audience = { plugin: 'caller:job', instance: 'noa', generation: 0 };
  const plugins = await tokens.mint(audience, [right]);
  t.match(await tokens.verify(plugins.text, audience), { rights: [right] }, 'it is genuine');
  t.equal(await callers.inspect(plugins.text), undefined);
  await t.rejects(invoke(plugins.text), { code: status.UNAUTHENTICATED });
  const { token, view } = await callers.mint({ caller: 'job', calls: ['model/*'] }, operator);
  t.match(await callers.inspect(token), { id: view.id });
  await t.rejects(tokens.verify(token, audience), { code: 'UNAUTHENTICATED' });
});
