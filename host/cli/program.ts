/** The tree of commands. Each group adds its own; options that all share are here. */
import { Command } from 'commander';
import { VERSION } from '../version.ts';
import { registerAudit } from './audit.ts';
import { registerAuth } from './auth.ts';
import { registerCompletion } from './completion.ts';
import { registerConfig } from './config.ts';
import { registerDoctor } from './doctor.ts';
import { registerGrant } from './grant.ts';
import { registerModel } from './model.ts';
import { registerMigrate } from './migrate.ts';
import { registerAuthorCommands } from './plugin-author.ts';
import { registerPlugin } from './plugin.ts';
import { registerSecret } from './secret.ts';
import { registerServe } from './serve.ts';
import { DEFAULT_URL, type Session } from './session.ts';
import { registerToken } from './token.ts';

/** Usage errors are thrown (CommanderError) and written by `writeError`, never by an exit. */
export function buildProgram(session: Session, writeError: (text: string) => void): Command {
  const program = new Command('noa')
    .description('a host for plugins that you do not have to trust: sandbox, grants, audit')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .helpCommand(false)
    .option('--json', 'print results, and errors as {"error": …}, as JSON on standard output')
    .option('--url <url>', `address of the running host (NOA_URL; else ${DEFAULT_URL})`)
    .option('--token <token>', 'bearer token (NOA_TOKEN; else the data folder’s bootstrap-token)')
    .addHelpText('after', '\nExit codes: 0 done, 1 refused or failed, 2 wrong usage.')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => session.io.stdout.write(text),
      writeErr: writeError,
      getOutHelpWidth: () => session.io.columns,
      getErrHelpWidth: () => session.io.columns,
    })
    .exitOverride()
    .hook('preAction', (_, command) => session.useOptions(command.optsWithGlobals()));

  registerServe(program, session);
  registerConfig(program, session);
  registerDoctor(program, session);
  registerMigrate(program, session);
  const plugin = program.command('plugin').description('write, install and run plugins');
  registerAuthorCommands(plugin, session);
  registerPlugin(plugin, session);
  registerGrant(program, session);
  registerSecret(program, session);
  registerModel(program, session);
  registerToken(program, session);
  registerAuth(program, session);
  registerAudit(program, session);
  registerCompletion(program, session);
  return program;
}
