/** `noa grant explain | suggest | diff`: what there is to know before deciding. */
import type { Command } from 'commander';
import { NoaError } from '@noa/sdk/host';
import type { Difference, Explanation, Suggestion } from '../kernel/advice.ts';
import type { LeastGrant } from '../kernel/least-grants.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

export function registerGrantAdvice(grant: Command, session: Session): void {
  grant
    .command('explain')
    .description('say why a use is or is not allowed, and what would allow it')
    .argument('<plugin>')
    .argument('<operation>', 'of a capability: cache.get')
    .argument('[resource]', 'any when absent')
    .action(async (plugin: string, use: string, resource?: string) => {
      const [capability = '', operation = ''] = use.split('.');
      if (capability === '' || operation === '') {
        throw new NoaError(
          'INVALID_ARGUMENT',
          `${JSON.stringify(use.slice(0, 64))} is no operation: write CAPABILITY.OPERATION, for example cache.get`,
        );
      }
      const query = {
        plugin,
        capability,
        operation,
        ...(resource === undefined ? {} : { resource }),
      };
      const found = await session.request<Explanation>('GET', path('explain', query));
      const { allowed, rule, because, remedy } = found;
      const lines = [`${allowed ? 'allowed' : 'denied'} (${rule}): ${because}`];
      if (remedy !== null) lines.push(`what would allow it: ${remedy}`);
      session.result(found, lines.join('\n'));
    });
  grant
    .command('suggest')
    .description('propose the least grants that the recorded uses need')
    .argument('<plugin>')
    .action(async (plugin: string) => {
      const found = await session.request<Suggestion>('GET', path('suggest', { plugin }));
      session.result(found, suggested(found));
    });
  grant
    .command('diff')
    .description('compare what a plugin asks for with what is granted')
    .argument('<plugin>')
    .action(async (plugin: string) => {
      const { differences } = await session.request<{ differences: Difference[] }>(
        'GET',
        path('diff', { plugin }),
      );
      session.result(differences, compared(plugin, differences, session.io.columns));
    });
}

function path(what: string, query: Record<string, string>): string {
  return `/v1/grants/${what}?${new URLSearchParams(query).toString()}`;
}

function suggested({ plugin, records, since, grants }: Suggestion): string {
  if (grants.length === 0) return `${plugin} has no approved grant`;
  const seen = since === null ? 'no recorded use' : `${records} recorded uses since ${since}`;
  return [`by ${seen}:`, ...grants.map(proposal)].join('\n');
}

function proposal({ grant, capability, operations, resources, uses, least }: LeastGrant): string {
  const now = `${capability} ${operations.join(',')} on ${resources.join(',')}`;
  if (uses === 0) return `${now}: never used\n  noa grant revoke ${grant}`;
  const asIs =
    least.operations.join() === operations.join() && least.resources.join() === resources.join();
  if (asIs) return `${now}: all of it is used (${uses} times)`;
  const flags = `--operations ${least.operations.join(',')} --resources ${quoted(least.resources)}`;
  return `${now}: used ${uses} times, and less would do\n  noa grant approve ${grant} ${flags}`;
}

/** One word of a shell. */
function quoted(resources: readonly string[]): string {
  return `'${resources.join(',').replaceAll("'", String.raw`'\''`)}'`;
}

function compared(plugin: string, differences: readonly Difference[], columns: number): string {
  if (differences.length === 0) return `${plugin} asks for nothing, and nothing is granted`;
  const rows = differences.map(({ capability, operations, resources, status, optional, given }) => [
    status === 'unrequested' || !optional ? status : `${status} (optional)`,
    `${capability} ${operations.join(',')} on ${resources.join(',')}`,
    given
      .map((reach) => `${reach.operations.join(',')} on ${reach.resources.join(',')}`)
      .join('; '),
  ]);
  return table(['STATUS', 'WHAT', 'GIVEN'], rows, columns);
}
