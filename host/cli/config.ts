/** `noa config check | print`. */
import type { Command } from 'commander';
import { inspectConfig, loadConfig } from '../config.ts';
import { addConfigOptions, type ConfigFlags, loadOptions } from './config-options.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

export function registerConfig(program: Command, session: Session): void {
  const config = program.command('config').description('check and print the configuration');
  addConfigOptions(config.command('check'))
    .description('name every fault of the configuration')
    .action((flags: ConfigFlags) => check(flags, session));
  addConfigOptions(config.command('print'))
    .description('print every value; secrets are redacted')
    .option('--origin', 'with the source that set each value')
    .action(({ origin, ...flags }: ConfigFlags & { origin?: boolean }) =>
      print(flags, origin === true, session),
    );
}

function check(flags: ConfigFlags, session: Session): void {
  loadConfig(loadOptions(flags, session.io));
  session.result({ ok: true }, 'the configuration is right');
}

function print(flags: ConfigFlags, origin: boolean, session: Session): void {
  const { entries } = inspectConfig(loadOptions(flags, session.io));
  const set = entries.filter(({ value }) => value !== undefined);
  const rows = set.map(({ path, value, source }) => [path, source, JSON.stringify(value)]);
  const text = origin
    ? table(['KEY', 'FROM', 'VALUE'], rows, session.io.columns)
    : rows.map(([path, , value]) => `${path} = ${value}`).join('\n');
  const values = entries.map(({ path, value = null, source }) => {
    return [path, origin ? { value, source } : value] as const;
  });
  session.result(Object.fromEntries(values), text);
}
