/** The flags of the configuration on the commands that read the configuration, made from its table of keys. */
import type { Command } from 'commander';
import type { LoadOptions } from '../config.ts';
import { KEY_LIST } from '../config/keys.ts';
import type { ProcessIo } from './io.ts';

export type ConfigFlags = Readonly<Record<string, string | undefined>>;

export function addConfigOptions(command: Command): Command {
  command
    .option('--config <file>', 'one more configuration file, above the profile (NOA_CONFIG)')
    .option('--profile <name>', 'also read config/NAME.toml (NOA_PROFILE)');
  for (const { path, key } of KEY_LIST) {
    if (key.flag !== undefined) command.option(`--${key.flag} <value>`, `${path}: ${key.rule}`);
  }
  return command;
}

/** What commander read of these flags, as the configuration wants it. */
export function loadOptions(flags: ConfigFlags, { env, cwd }: ProcessIo): LoadOptions {
  const values: Record<string, string> = {};
  for (const { path, key } of KEY_LIST) {
    const value = key.flag === undefined ? undefined : flags[attribute(key.flag)];
    if (value !== undefined) values[path] = value;
  }
  return { env, cwd, file: flags['config'], profile: flags['profile'], flags: values };
}

/** commander keeps `--metrics-port` as `metricsPort`. */
function attribute(flag: string): string {
  return flag.replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
}
