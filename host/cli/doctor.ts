/** `noa doctor`: whether a host can start here, each point with its fix. Changes nothing. */
import type { Command } from 'commander';
import { addConfigOptions, type ConfigFlags } from './config-options.ts';
import type { Check } from './doctor-checks.ts';
import type { Session } from './session.ts';

export function registerDoctor(program: Command, session: Session): void {
  addConfigOptions(program.command('doctor'))
    .description('check whether a host can start here, and say how to mend what is wrong')
    .action(async (flags: ConfigFlags) => {
      // Drivers are loaded for this command alone.
      const { examine } = await import('./doctor-checks.ts');
      const checks = await examine(flags, session);
      const ok = checks.every((check) => check.ok !== false);
      session.result({ ok, checks }, checks.map(line).join('\n'));
      if (!ok) session.exitCode = 1;
    });
}

function line({ name, ok, message, fix }: Check): string {
  const mark = ok === null ? '·' : ok ? '✔' : '✖';
  return `${mark} ${name}: ${message}${fix === undefined ? '' : `\n    fix: ${fix}`}`;
}
