/** `noa auth …`: who may call a host, and with what. A secret never stands on a command line. */
import type { Command } from 'commander';
import type { SigningKeyView } from '../gateway/identity/signing-keys.ts';
import type { TokenAnswer } from '../gateway/identity/token-endpoint.ts';
import { registerIdentities } from './auth-identity.ts';
import { registerApiKeys } from './auth-key.ts';
import { registerRoles } from './auth-role.ts';
import { AdminClient } from './client.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

export function registerAuth(program: Command, session: Session): void {
  const auth = program.command('auth').description('clients, users, roles, API keys and tokens');
  registerIdentities(auth, session, 'client');
  registerIdentities(auth, session, 'user');
  registerRoles(auth, session);
  registerApiKeys(auth, session);
  signingKeys(auth, session);
  auth
    .command('token')
    .description(
      'print an access token of a client (its secret: NOA_CLIENT_SECRET or standard input)',
    )
    .requiredOption('--client-id <id>', 'the client')
    .option('--scope <scopes...>', 'no more than these of its scopes')
    .action(async ({ clientId, scope }: { clientId: string; scope?: string[] }) => {
      const given = session.io.env['NOA_CLIENT_SECRET'];
      const secret = given === undefined || given === '' ? await session.stdin() : given;
      const json = {
        grant_type: 'client_credentials',
        client_id: clientId,
        client_secret: secret.trim(),
        ...(scope === undefined ? {} : { scope: scope.join(' ') }),
      };
      const client = new AdminClient(session.url, '');
      const answer = await client.request<TokenAnswer>('POST', '/v1/auth/token', { json });
      session.result(answer, answer.access_token);
    });
  auth
    .command('whoami')
    .description('show whose credential this is, and what it may do')
    .action(async () => {
      const self = await session.request<{
        subject: string;
        scopes: string[];
        roles: string[];
        level: string;
      }>('GET', '/v1/auth/me');
      const { subject, scopes, roles, level } = self;
      const lines = [
        subject,
        `scopes  ${scopes.join(' ')}`,
        `roles   ${roles.join(' ')}`,
        `level   ${level}`,
      ];
      session.result(self, lines.map((line) => line.trimEnd()).join('\n'));
    });
}

function signingKeys(auth: Command, session: Session): void {
  const keys = auth.command('keys').description('the keys that sign access tokens');
  keys
    .command('list')
    .description('show the keys: ids and times, never the keys themselves')
    .action(async () => {
      const list = await session.requestAll<SigningKeyView>('/v1/auth/signing-keys', 'keys');
      const rows = list.map(({ kid, createdAt, retiredAt }) => [
        kid,
        createdAt,
        retiredAt ?? 'signs',
      ]);
      const text = table(['KEY', 'CREATED', 'RETIRED'], rows, session.io.columns);
      session.result(
        list,
        list.length === 0 ? 'there is no key yet: the first token makes it' : text,
      );
    });
  keys
    .command('rotate')
    .description(
      'sign with a new key from now on; what the old one signed is good until it expires',
    )
    .action(async () => {
      const path = '/v1/auth/signing-keys/rotate';
      const key = await session.request<SigningKeyView>('POST', path);
      session.result(key, `${key.kid} signs from now on, on every host within a second`);
    });
}
