/**
 * `noa`: runs one command. Exit codes: 0 done, 1 refused or failed, 2 wrong usage. With --json every
 * result and every error is one JSON line on standard output.
 */
import { CommanderError } from 'commander';
import { failureOf } from './failure.ts';
import { processIo, type ProcessIo } from './io.ts';
import { buildProgram } from './program.ts';
import { Session } from './session.ts';

process.exitCode = await run(process.argv.slice(2), processIo());

async function run(argv: readonly string[], io: ProcessIo): Promise<number> {
  const end = argv.indexOf('--');
  const session = new Session(io, (end < 0 ? argv : argv.slice(0, end)).includes('--json'));
  let complaint = '';
  const program = buildProgram(session, (text) => (complaint += text));
  try {
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) session.fail(failureOf(error), 1);
    else if (error.code === 'commander.help') {
      // A group without a command: its help is the complaint.
      io.stderr.write(complaint);
      session.exitCode = 2;
    } else if (error.exitCode !== 0) {
      const message = complaint.replace(/^error: /, '').trimEnd();
      session.fail({ code: 'USAGE', message }, 2);
    }
  }
  return session.exitCode;
}
