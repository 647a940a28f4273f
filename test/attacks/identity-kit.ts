/** A host under attack, with identities on it: what attacks on tokens and on identities share. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import type { Test } from 'tap';
import { startPostgres } from '../../capabilities/db/embedded.ts';
import { type Answer, eventually } from '../e2e/running-host.ts';
import { Target } from './target.ts';

export const ROOT_KEY = `${'k'.repeat(43)}=`;

export interface Tokens {
  readonly access_token: string;
  readonly refresh_token: string;
}

export type Claims = Record<string, unknown>;

export const denied = {
  kind: 'authentication.denial',
  outcome: 'denied',
  code: 'UNAUTHENTICATED',
};

export async function attackIdentities(t: Test) {
  const folder = await mkdtemp(join(tmpdir(), 'noa-tokens-'));
  t.teardown(() => rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
  const postgres = await startPostgres({ dataDir: folder, log: () => undefined });
  t.teardown(() => postgres.stop());
  const env = { NOA_DATABASE__URL: postgres.url, NOA_AUTH__ROOT_KEY: ROOT_KEY };
  const target = await Target.start(t, [], env);
  const { host } = target;
  const database = new Client({ connectionString: postgres.url });
  await database.connect();
  t.teardown(() => database.end());

  async function newClient(id: string, scopes: string[]): Promise<string> {
    const { status, body } = await host.post('/v1/auth/clients', { id, scopes, level: 'L1' });
    if (status !== 201) throw new Error(JSON.stringify(body));
    return String(body['secret']);
  }

  async function ask<T = Claims>(
    form: Record<string, string>,
  ): Promise<{ status: number; body: T; headers: Headers }> {
    const init = { method: 'POST', body: new URLSearchParams(form) };
    const response = await fetch(`${host.url}/v1/auth/token`, init);
    const { status, headers } = response;
    return { status, body: (await response.json()) as T, headers };
  }

  async function tokensOf(id: string, secret: string): Promise<Tokens> {
    const login = { client_id: id, client_secret: secret };
    const { status, body } = await ask<Tokens>({ grant_type: 'client_credentials', ...login });
    if (status !== 200) throw new Error(JSON.stringify(body));
    return body;
  }

  function call(credential: string, path = '/v1/plugins'): Promise<Answer> {
    return host.request('GET', path, undefined, { authorization: `Bearer ${credential}` });
  }

  /** Refused, or told to wait after many refusals. */
  async function isOut(token: string): Promise<boolean> {
    const { status } = await call(token);
    return status === 401 || status === 429;
  }

  /** None is let in, and the answer is the same for all: 429 once there were many. `genuine` passes. */
  async function refused(
    t: Test,
    genuine: string,
    forgeries: Readonly<Record<string, string>>,
  ): Promise<void> {
    const since = new Date().toISOString();
    for (const [name, token] of Object.entries(forgeries)) {
      const { status, body, headers } = await call(token);
      t.ok(status === 401 || status === 429, `${name}: ${status}`);
      if (status === 401) {
        t.match(headers.get('www-authenticate'), /^Bearer realm="noa", error="invalid_token"$/);
        t.match(body, { code: 'UNAUTHENTICATED', detail: /the credential is not valid/ });
      }
      if (JSON.stringify(body).includes(token.slice(-32))) t.fail(`${name}: the answer shows it`);
    }
    t.equal((await call(genuine)).status, 200, 'a true one passes all the while');
    // Of a flood the audit log has some, and then the number of the others: one more tells that it was noticed.
    const [again = ''] = Object.values(forgeries);
    await eventually('a refusal is in the audit log', async () => {
      await call(again);
      const { body } = await host.get('/v1/audit?limit=50');
      const records = body['records'] as { timestamp: string; kind: string }[];
      return records.some(({ kind, timestamp }) => kind === denied.kind && timestamp >= since);
    });
  }
  return { target, host, database, newClient, ask, tokensOf, call, isOut, refused };
}
