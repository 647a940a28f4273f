/** `noa migrate create | run | revert | status`: the schema of the host's own state. */
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { loadConfig } from '../config.ts';
import { NoaError } from '@noa/sdk/host';
import { addConfigOptions, type ConfigFlags, loadOptions } from './config-options.ts';
import type { FoundDatabase } from './database.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

export function registerMigrate(program: Command, session: Session): void {
  const migrate = program
    .command('migrate')
    .description('the schema of the host’s own state; `noa serve` runs it by itself');
  const onDatabase = async <T>(flags: ConfigFlags, use: (found: FoundDatabase) => Promise<T>) => {
    const { withDatabase } = await import('./database.ts');
    const config = loadConfig(loadOptions(flags, session.io));
    return withDatabase(config, (text) => session.note(text), use);
  };
  // Drivers are loaded for these commands alone.
  const migrations = () => import('../store/migrate.ts');

  migrate
    .command('create')
    .description('write an empty migration with the next number')
    .argument('<name>', 'lower-case letters, digits and _')
    .option('--dir <folder>', 'where; migrations/ of this package when absent')
    .action(async (name: string, { dir }: { dir?: string }) => {
      const folder = dir === undefined ? undefined : resolve(session.io.cwd, dir);
      const { createMigration } = await migrations();
      const file = await createMigration(name, folder);
      session.result({ file }, file);
    });
  addConfigOptions(migrate.command('run'))
    .description('run what is pending')
    .action(async (flags: ConfigFlags) => {
      const { runMigrations } = await migrations();
      const ran = await onDatabase(flags, ({ database }) => runMigrations(database, 'up'));
      session.result({ ran }, ran.length === 0 ? 'nothing is pending' : `ran ${ran.join(', ')}`);
    });
  addConfigOptions(migrate.command('revert'))
    .description('undo the last migration; what it made is lost')
    .option('--count <number>', 'undo so many', positive, 1)
    .action(async ({ count, ...flags }: ConfigFlags & { count: number }) => {
      const { runMigrations } = await migrations();
      const reverted = await onDatabase(flags, async ({ database, inUse }) => {
        if (!inUse) return runMigrations(database, 'down', { count });
        throw new NoaError('CONFLICT', 'a host is running on this database; stop it first');
      });
      const text = reverted.length === 0 ? 'nothing to revert' : `reverted ${reverted.join(', ')}`;
      session.result({ reverted }, text);
    });
  addConfigOptions(migrate.command('status'))
    .description('show what was run and what is pending')
    .action(async (flags: ConfigFlags) => {
      const { migrationStatus } = await migrations();
      const states = await onDatabase(flags, ({ database }) => migrationStatus(database));
      const listed = states.map(({ name, ranAt }) => ({
        name,
        ranAt: ranAt?.toISOString() ?? null,
      }));
      const rows = listed.map(({ name, ranAt }) => [name, ranAt ?? 'pending']);
      session.result(
        { migrations: listed },
        table(['MIGRATION', 'RUN AT'], rows, session.io.columns),
      );
    });
}

function positive(text: string): number {
  if (!/^[1-9]\d{0,3}$/.test(text)) throw new InvalidArgumentError('It must be 1 or more.');
  return Number(text);
}
