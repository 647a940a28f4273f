/** `noa auth client …` and `noa auth user …`. */
import type { Command } from 'commander';
import type { IdentityView } from '../gateway/identity/directory.ts';
import type { IdentityKind } from '../gateway/identity/store.ts';
import { segment } from './auth-path.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

interface Options {
  readonly scope?: string[] | false;
  readonly role?: string[] | false;
  readonly level?: string | false;
  readonly description?: string;
  readonly issuer?: string | false;
  readonly externalSubject?: string;
}

export function registerIdentities(auth: Command, session: Session, kind: IdentityKind): void {
  const what = kind === 'client' ? 'programs that call this host' : 'people that call this host';
  const group = auth.command(kind).description(what);
  const base = `/v1/auth/${kind}s`;
  const withOptions = (command: Command): Command => {
    command
      .option('--scope <scopes...>', 'what it may do, beside what its roles give')
      .option('--role <roles...>', 'roles that it has')
      .option('--level <level>', 'of its rate limit, L1 to L5')
      .option('--description <text>', 'what it is for');
    if (kind === 'client') return command;
    return command
      .option('--issuer <name>', 'issuer of the configuration whose tokens may stand for this user')
      .option('--external-subject <sub>', 'what that issuer calls the user');
  };
  withOptions(group.command('create').description(`make a ${kind}`).argument('<id>')).action(
    async (id: string, options: Options) => {
      const json = { id, ...membersOf(options) };
      const made = await session.request<IdentityView & { secret?: string }>('POST', base, {
        json,
      });
      const secret =
        made.secret === undefined ? [] : [`secret ${made.secret}`, 'It is shown this once.'];
      session.result(made, [`made ${made.subject}`, ...secret].join('\n'));
    },
  );
  group
    .command('list')
    .description(`show the ${kind}s`)
    .action(async () => {
      const all = await session.requestAll<IdentityView>(base, `${kind}s`);
      session.result(
        all,
        all.length === 0 ? `there are no ${kind}s` : list(all, session.io.columns),
      );
    });
  group
    .command('show')
    .description(`show a ${kind} and all that it may do`)
    .argument('<id>')
    .action(async (id: string) => {
      const path = `${base}/${segment(id)}`;
      const view = await session.request<IdentityView & { effective: string[] }>('GET', path);
      session.result(view, describe(view));
    });
  const update = group
    .command('update')
    .description(`change what is given of a ${kind}`)
    .argument('<id>');
  withOptions(update)
    .option('--no-scope', 'take its own scopes')
    .option('--no-role', 'take its roles')
    .option('--no-level', 'take its level');
  if (kind === 'user') update.option('--no-issuer', 'end the link to an issuer');
  update.action(async (id: string, options: Options) => {
    const json = membersOf(options);
    const view = await session.request<IdentityView>('PATCH', `${base}/${segment(id)}`, { json });
    session.result(view, `changed ${view.subject}; it holds on every host within a second`);
  });
  for (const [name, disabled] of [
    ['disable', true],
    ['enable', false],
  ] as const) {
    group
      .command(name)
      .description(disabled ? `refuse all credentials of a ${kind}` : `let a ${kind} in again`)
      .argument('<id>')
      .action(async (id: string) => {
        const json = { disabled };
        const view = await session.request<IdentityView>('PATCH', `${base}/${segment(id)}`, {
          json,
        });
        session.result(view, `${name}d ${view.subject}; it holds on every host within a second`);
      });
  }
  group
    .command('delete')
    .description(`delete a ${kind} with its tokens and API keys`)
    .argument('<id>')
    .action(async (id: string) => {
      await session.request('DELETE', `${base}/${segment(id)}`);
      session.result({ id }, `deleted ${kind}:${id}`);
    });
  if (kind === 'client') rotateSecret(group, session, base);
}

function rotateSecret(group: Command, session: Session, base: string): void {
  group
    .command('rotate-secret')
    .description('make a new secret; the one before and all tokens of the client end now')
    .argument('<id>')
    .action(async (id: string) => {
      const path = `${base}/${segment(id)}/secret`;
      const made = await session.request<IdentityView & { secret: string }>('POST', path);
      session.result(made, `secret ${made.secret}\nIt is shown this once.`);
    });
}

function membersOf(options: Options) {
  const { scope, role, level, description, issuer, externalSubject } = options;
  return {
    ...(scope === undefined ? {} : { scopes: scope === false ? [] : scope }),
    ...(role === undefined ? {} : { roles: role === false ? [] : role }),
    ...(level === undefined ? {} : { level: level === false ? null : level }),
    ...(description === undefined ? {} : { description }),
    ...(issuer === undefined ? {} : { issuer: issuer === false ? null : issuer }),
    ...(issuer === false ? { externalSubject: null } : {}),
    ...(externalSubject === undefined ? {} : { externalSubject }),
  };
}

function list(all: readonly IdentityView[], columns: number): string {
  const rows = all.map(({ id, level, disabled, roles, scopes, description }) => [
    id,
    disabled ? 'disabled' : 'active',
    level ?? 'L5',
    roles.join(' '),
    [scopes.join(' '), description].filter((text) => text !== '').join(' – '),
  ]);
  return table(['ID', 'STATE', 'LEVEL', 'ROLES', 'SCOPES'], rows, columns);
}

function describe(view: IdentityView & { effective: string[] }): string {
  const { subject, description, disabled, level, roles, effective, issuer, externalSubject } = view;
  return [
    description === '' ? subject : `${subject}  ${description}`,
    `state   ${disabled ? 'disabled' : 'active'}`,
    `level   ${level ?? 'L5'}`,
    `roles   ${roles.join(' ')}`,
    `scopes  ${effective.join(' ')}`,
    ...(issuer === null ? [] : [`linked  ${externalSubject} of ${issuer}`]),
  ]
    .map((line) => line.trimEnd())
    .join('\n');
}
