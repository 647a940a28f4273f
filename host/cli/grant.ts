/** `noa grant list | show | approve | add | revoke`; explain, suggest and diff are in grant-advice.ts. */
import type { Command } from 'commander';
import { NoaError } from '@noa/sdk/host';
import type { PluginView } from '../kernel/views.ts';
import type { Grant } from '../kernel/grants.ts';
import { registerGrantAdvice } from './grant-advice.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

interface Narrowing {
  readonly operations?: string[];
  readonly resources?: string[];
}

export function registerGrant(program: Command, session: Session): void {
  const grant = program.command('grant').description('decide what plugins may do');
  grant
    .command('list')
    .description('show the grants')
    .argument('[plugin]', 'of this plugin only')
    .action(async (plugin?: string) => {
      const grants = await grantsOf(plugin, session);
      session.result(grants, list(grants, session.io.columns));
    });
  grant
    .command('show')
    .description('show one grant')
    .argument('<id>')
    .action(async (id: string) => {
      const found = await session.request<Grant>('GET', grantPath(id));
      const rows = Object.entries(found).map(([name, value]) => [name, cell(value)]);
      session.result(found, table(['FIELD', 'VALUE'], rows, session.io.columns));
    });
  grant
    .command('approve')
    .description('approve what a plugin asks for: all that it requires and that waits')
    .argument('<name>', 'a plugin, or the id of a grant')
    .option('--capability <name>', 'only of this capability, optional or revoked ones included')
    .option('--all', 'also what is optional and what was revoked')
    .option('--operations <list>', 'of one grant: only these, separated by commas', split)
    .option('--resources <list>', 'of one grant: only these, separated by commas', split)
    .action((name: string, options: Narrowing & { capability?: string; all?: boolean }) =>
      approve(name, options, session),
    );
  grant
    .command('add')
    .description('grant something ahead of or beyond a request')
    .argument('<plugin>')
    .argument('<capability>')
    .requiredOption('--operations <list>', 'separated by commas', split)
    .requiredOption(
      '--resources <list>',
      'exact names or prefixes ending in *, separated by commas',
      split,
    )
    .option('--reason <text>', 'why, for the audit log')
    .action(
      async (
        plugin: string,
        capability: string,
        options: Required<Narrowing> & { reason?: string },
      ) => {
        const json = { plugin, capability, ...options };
        const added = await session.request<Grant>('POST', '/v1/grants', { json });
        session.result(added, line('granted', added));
      },
    );
  grant
    .command('revoke')
    .description('take grants back; it holds at the next capability call')
    .argument('<name>', 'a plugin, for all of its grants, or the id of a grant')
    .action((name: string) => revoke(name, session));
  registerGrantAdvice(grant, session);
}

function split(list: string): string[] {
  return list.split(',').map((item) => item.trim());
}

function grantPath(id: string): string {
  return `/v1/grants/${encodeURIComponent(id)}`;
}

function grantsOf(plugin: string | undefined, session: Session): Promise<Grant[]> {
  const query = plugin === undefined ? '' : `?plugin=${encodeURIComponent(plugin)}`;
  return session.requestAll<Grant>(`/v1/grants${query}`, 'grants');
}

async function approve(
  name: string,
  { capability, all, operations, resources }: Narrowing & { capability?: string; all?: boolean },
  session: Session,
): Promise<void> {
  const wanted = UUID.test(name)
    ? [await session.request<Grant>('GET', grantPath(name))]
    : await undecidedOf(name, { capability, all: all === true }, session);
  const narrowed = operations !== undefined || resources !== undefined;
  if (narrowed && wanted.length !== 1) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `--operations and --resources narrow one grant, and these are ${wanted.length}: name the grant by its id (noa grant list)`,
    );
  }
  const json = {
    ...(operations === undefined ? {} : { operations }),
    ...(resources === undefined ? {} : { resources }),
  };
  const approved: Grant[] = [];
  for (const { id } of wanted) {
    approved.push(await session.request<Grant>('POST', `${grantPath(id)}/approve`, { json }));
  }
  const lines = approved.map((grant) => line('approved', grant));
  if (lines.length === 0) lines.push(`nothing of ${name} waits for approval`);
  if (approved.length === 0) lines.push(...(await taken(name, session)));
  session.result(approved, lines.join('\n'));
}

/** What was left out on purpose: revoked and optional grants come back only when that is said. */
async function taken(plugin: string, session: Session): Promise<string[]> {
  const left = (await grantsOf(plugin, session)).filter(({ status }) => status !== 'approved');
  if (left.length === 0) return [];
  const names = [...new Set(left.map(({ capability, status }) => `${capability} (${status})`))];
  return [`left: ${names.join(', ')}; noa grant approve ${plugin} --all gives all of it`];
}

/** The grants of a plugin that may be approved now. Rejects with NOT_FOUND when there is no such plugin. */
async function undecidedOf(
  plugin: string,
  { capability, all }: { capability: string | undefined; all: boolean },
  session: Session,
): Promise<Grant[]> {
  await session.request<PluginView>('GET', `/v1/plugins/${encodeURIComponent(plugin)}`);
  const open = (await grantsOf(plugin, session)).filter(({ status }) => status !== 'approved');
  if (capability === undefined) {
    return open.filter(({ status, optional }) => all || (status === 'pending' && !optional));
  }
  const chosen = open.filter((grant) => grant.capability === capability);
  if (chosen.length > 0) return chosen;
  const known = open.map((grant) => grant.capability).join(', ') || 'nothing';
  const message = `${plugin} does not wait for a grant of ${capability}; it waits for: ${known}`;
  throw new NoaError('NOT_FOUND', message);
}

async function revoke(name: string, session: Session): Promise<void> {
  const ids = UUID.test(name) ? [name] : await approvedOf(name, session);
  const revoked: Grant[] = [];
  for (const id of ids) revoked.push(await session.request<Grant>('DELETE', grantPath(id)));
  const lines = revoked.map((grant) => line('revoked', grant));
  if (lines.length === 0) lines.push(`${name} has no approved grant`);
  session.result(revoked, lines.join('\n'));
}

async function approvedOf(plugin: string, session: Session): Promise<string[]> {
  await session.request<PluginView>('GET', `/v1/plugins/${encodeURIComponent(plugin)}`);
  const grants = await grantsOf(plugin, session);
  return grants.filter(({ status }) => status === 'approved').map(({ id }) => id);
}

function line(done: string, { plugin, capability, operations, resources, id }: Grant): string {
  return `${done} ${plugin}: ${capability} ${operations.join(',')} on ${resources.join(',')}  (${id})`;
}

function list(grants: readonly Grant[], columns: number): string {
  if (grants.length === 0) return 'there are no grants';
  const rows = grants.map((grant) => [
    grant.id,
    grant.plugin,
    grant.status,
    `${grant.capability} ${grant.operations.join(',')} on ${grant.resources.join(',')}`,
  ]);
  return table(['ID', 'PLUGIN', 'STATUS', 'WHAT'], rows, columns);
}

function cell(value: unknown): string {
  if (Array.isArray(value)) return value.join(', ');
  return typeof value === 'string' ? value : JSON.stringify(value);
}
