/** `noa plugin dead-letters`: events that a plugin failed to take. */
import type { Command } from 'commander';
import { NoaError } from '@noa/sdk/host';
import type { RetryReport } from '../kernel/dead-letters.ts';
import type { DeadLetter } from '../kernel/events.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

/** An option without its value is true. */
interface Choice {
  readonly retry?: string | true;
  readonly drop?: string | true;
  readonly all?: true;
}

export function registerDeadLetters(plugin: Command, session: Session): void {
  plugin
    .command('dead-letters')
    .description('show the events that a plugin failed to take; deliver or drop them')
    .argument('<name>')
    .option('--retry [id]', 'deliver this one again, or with --all every one')
    .option('--drop [id]', 'delete this one, or with --all every one')
    .option('--all', 'every one')
    .action((name: string, choice: Choice) => run(name, choice, session));
}

async function run(name: string, { retry, drop, all }: Choice, session: Session): Promise<void> {
  const path = `/v1/plugins/${encodeURIComponent(name)}/dead-letters`;
  if (retry === undefined && drop === undefined) {
    const letters = await session.requestAll<DeadLetter>(path, 'letters');
    session.result(letters, list(letters, name, session.io.columns));
    return;
  }
  const chosen = retry ?? drop;
  if ((retry !== undefined && drop !== undefined) || (chosen === true) !== (all === true)) {
    const text = 'write --retry ID, --retry --all, --drop ID or --drop --all';
    throw new NoaError('INVALID_ARGUMENT', `dead-letters: ${text}`);
  }
  const id = typeof chosen === 'string' ? chosen : undefined;
  if (drop !== undefined) {
    const one = id === undefined ? path : `${path}/${encodeURIComponent(id)}`;
    const { dropped } = await session.request<{ dropped: number }>('DELETE', one);
    session.result({ dropped }, `dropped ${dropped}`);
    return;
  }
  const json = id === undefined ? {} : { id };
  const report = await session.request<RetryReport>('POST', `${path}/retry`, { json });
  const { delivered, failed, more } = report;
  const lines = [`delivered ${delivered}, failed again ${failed.length}`];
  if (failed.length > 0) lines.push(list(failed, name, session.io.columns));
  if (more) lines.push('there are more: run it again');
  session.result(report, lines.join('\n'));
}

function list(letters: readonly DeadLetter[], name: string, columns: number): string {
  if (letters.length === 0) return `${name} has no dead letters`;
  const rows = letters.map((letter) => [
    letter.id,
    letter.event.id,
    letter.event.subject,
    letter.export,
    String(letter.attempts),
    letter.failedAt,
    `${letter.code} ${letter.reason}`,
  ]);
  const head = ['ID', 'EVENT', 'SUBJECT', 'EXPORT', 'ATTEMPTS', 'FAILED', 'REASON'];
  return table(head, rows, columns);
}
