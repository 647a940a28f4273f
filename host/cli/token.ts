/** `noa token list | rotate`: the keys that sign the capability tokens of plugins. */
import type { Command } from 'commander';
import type { TokenKey } from '../kernel/tokens.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

export function registerToken(program: Command, session: Session): void {
  const token = program
    .command('token')
    .description('the keys that sign the capability tokens of plugins');
  token
    .command('list')
    .description('show the keys: ids and times, never the keys themselves')
    .action(async () => {
      const keys = await session.requestAll<TokenKey>('/v1/tokens/keys', 'keys');
      const rows = keys.map(({ kid, createdAt, retiredAt }) => [
        kid,
        createdAt,
        retiredAt ?? 'signs',
      ]);
      session.result(keys, table(['KEY', 'CREATED', 'RETIRED'], rows, session.io.columns));
    });
  token
    .command('rotate')
    .description('sign with a new key from now on; what the old one signed expires within 300 s')
    .action(async () => {
      const key = await session.request<TokenKey>('POST', '/v1/tokens/rotate');
      session.result(key, `${key.kid} signs from now on, on every host within a second`);
    });
}
