/** Identity over a real PostgreSQL, as one host of several sees it, with a clock that the test sets. */
import { randomUUID } from 'node:crypto';
import type { Test } from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import type { Arrival } from '../../host/gateway/arrival.ts';
import { createIdentity, type IdentityOptions } from '../../host/gateway/identity/identity.ts';
import type { TokenAnswer } from '../../host/gateway/identity/token-endpoint.ts';
import { Audit, type AuditRecord } from '../../host/kernel/audit.ts';
import type { Principal } from '../../host/kernel/chain.ts';
import type { StoreTx } from '../../host/kernel/store.ts';
import { PostgresIdentities } from '../../host/store/identities.ts';
import { runMigrations } from '../../host/store/migrate.ts';
import { openStatePool } from '../../host/store/pool.ts';
import { PostgresStore } from '../../host/store/postgres.ts';
import { testDatabase } from '../capabilities/database.ts';

export const BOOTSTRAP = 'bootstrap-token-of-at-least-32-characters';
export const ROOT: Principal = { subject: 'bootstrap', scopes: ['admin'] };

export interface Clock {
  now: number;
}

export interface HostOptions {
  readonly auth?: Partial<IdentityOptions['auth']>;
  readonly rootKey?: Uint8Array;
  readonly clock?: Clock;
}

/** A database with the host's tables; `host` makes one more host on it. */
export async function identityHosts(t: Pick<Test, 'teardown'>) {
  const database = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
  t.teardown(() => database.stop());
  const config = connectionConfig(database.url);
  await runMigrations(config, 'up');
  const state = openStatePool({ ...config, max: 10 }, () => undefined);
  t.teardown(() => state[Symbol.asyncDispose]());
  const store = new PostgresStore(state.pool);

  async function host({ auth = {}, rootKey = Buffer.alloc(32, 7), clock }: HostOptions = {}) {
    const now = () => clock?.now ?? Date.now();
    const audit = new Audit<StoreTx>({
      chain: randomUUID(),
      sink: store,
      now,
      flushMs: 10,
      capacity: 1000,
      onError: () => undefined,
    });
    let revision = await store.revision();
    const identity = createIdentity({
      callers: { find: () => Promise.resolve(undefined) },
      store: new PostgresIdentities(state.pool),
      audit,
      rootKey,
      bootstrapToken: BOOTSTRAP,
      auth: {
        issuer: undefined,
        access_token_life_seconds: 600,
        refresh_token_life_seconds: 3600,
        issuers: undefined,
        ...auth,
      },
      revision: () => revision,
      now,
      newId: randomUUID,
      onError: () => undefined,
    });
    t.teardown(() => identity[Symbol.dispose]());

    const authenticate = (credential: string, address = '192.0.2.1') =>
      identity.authenticator.authenticate(arrival(`Bearer ${credential}`, address));
    return {
      ...identity,
      audit,
      authenticate,
      /** Sees what other hosts have changed, as the kernel does once a second. */
      follow: async () => {
        revision = await store.revision();
      },
      /** The code of the refusal, or the principal. */
      who: async (credential: string): Promise<Principal | string> => {
        try {
          return await authenticate(credential);
        } catch (error) {
          return String((error as { code?: unknown }).code);
        }
      },
      client: async (id: string, scopes: readonly string[]): Promise<string> =>
        String((await identity.directory.create('client', id, { scopes }, ROOT)).secret),
      token: (
        id: string,
        secret: string,
        form: Record<string, string> = {},
      ): Promise<TokenAnswer> =>
        identity.endpoint.grant({
          clientId: id,
          clientSecret: secret,
          parameters: new Map(Object.entries({ grant_type: 'client_credentials', ...form })),
          remoteAddress: '192.0.2.1',
        }),
      records: async (): Promise<readonly AuditRecord[]> => {
        await audit.flush();
        return (await store.auditPage({ limit: 1000 })).records;
      },
    };
  }
  return { host, store, pool: state.pool, url: database.url };
}

export function arrival(authorization: string | undefined, remoteAddress = '192.0.2.1'): Arrival {
  return {
    transport: 'http',
    requestId: 'r',
    traceId: '0'.repeat(32),
    method: 'GET',
    path: '/',
    authorization,
    remoteAddress,
  };
}
