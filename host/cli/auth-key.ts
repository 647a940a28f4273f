/** `noa auth key …`: API keys. */
import type { Command } from 'commander';
import type { ApiKeyView } from '../gateway/identity/store.ts';
import { segment } from './auth-path.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

const PATH = '/v1/auth/keys';

interface CreateOptions {
  readonly owner: string;
  readonly scope?: string[];
  readonly expires?: string;
  readonly description?: string;
}

export function registerApiKeys(auth: Command, session: Session): void {
  const group = auth.command('key').description('API keys of users and clients');
  group
    .command('create')
    .description('make an API key; it is shown this once')
    .requiredOption('--owner <subject>', 'user:<id> or client:<id>')
    .option('--scope <scopes...>', 'no more than these of its owner’s')
    .option('--expires <time>', 'UTC, such as 2030-01-31T00:00:00Z')
    .option('--description <text>', 'what it is for')
    .action(async ({ owner, scope, expires, description }: CreateOptions) => {
      const json = {
        owner,
        ...(scope === undefined ? {} : { scopes: scope }),
        ...(expires === undefined ? {} : { expiresAt: expires }),
        ...(description === undefined ? {} : { description }),
      };
      const made = await session.request<ApiKeyView & { key: string }>('POST', PATH, { json });
      session.result(made, `made the API key ${made.id}\nkey ${made.key}\nIt is shown this once.`);
    });
  group
    .command('list')
    .description('show the API keys, without their secrets')
    .option('--owner <subject>', 'those of one user or client')
    .action(async ({ owner }: { owner?: string }) => {
      const query = owner === undefined ? '' : `?owner=${encodeURIComponent(owner)}`;
      const keys = await session.requestAll<ApiKeyView>(`${PATH}${query}`, 'keys');
      const rows = keys.map(({ id, subject, expiresAt, scopes }) => [
        id,
        subject,
        expiresAt ?? 'never',
        scopes.join(' '),
      ]);
      const text = table(['KEY', 'OWNER', 'EXPIRES', 'SCOPES'], rows, session.io.columns);
      session.result(keys, keys.length === 0 ? 'there are no API keys' : text);
    });
  group
    .command('revoke')
    .description('revoke an API key, on every host within a second')
    .argument('<id>')
    .action(async (id: string) => {
      await session.request('DELETE', `${PATH}/${segment(id)}`);
      session.result({ id }, `revoked ${id}`);
    });
}
