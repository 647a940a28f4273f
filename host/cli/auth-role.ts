/** `noa auth role …`. */
import type { Command } from 'commander';
import type { Role } from '../gateway/identity/store.ts';
import { segment } from './auth-path.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

const PATH = '/v1/auth/roles';

export function registerRoles(auth: Command, session: Session): void {
  const group = auth
    .command('role')
    .description('lists of scopes that clients and users have by name');
  group
    .command('create')
    .description('make a role')
    .argument('<name>')
    .requiredOption('--scope <scopes...>', 'what it gives')
    .option('--description <text>', 'what it is for')
    .action(
      async (name: string, { scope, description }: { scope: string[]; description?: string }) => {
        const json = { name, scopes: scope, ...(description === undefined ? {} : { description }) };
        const role = await session.request<Role>('POST', PATH, { json });
        session.result(role, `made the role ${role.name}`);
      },
    );
  group
    .command('list')
    .description('show the roles')
    .action(async () => {
      const roles = await session.requestAll<Role>(PATH, 'roles');
      const rows = roles.map(({ name, scopes, description }) => [
        name,
        scopes.join(' '),
        description,
      ]);
      const text = table(['ROLE', 'SCOPES', 'DESCRIPTION'], rows, session.io.columns);
      session.result(roles, roles.length === 0 ? 'there are no roles' : text);
    });
  group
    .command('show')
    .description('show a role')
    .argument('<name>')
    .action(async (name: string) => {
      const role = await session.request<Role>('GET', `${PATH}/${segment(name)}`);
      session.result(role, `${role.name}  ${role.description}\nscopes  ${role.scopes.join(' ')}`);
    });
  group
    .command('update')
    .description('change what a role gives; whoever has it has that from now on')
    .argument('<name>')
    .option('--scope <scopes...>', 'what it gives')
    .option('--description <text>', 'what it is for')
    .action(
      async (name: string, { scope, description }: { scope?: string[]; description?: string }) => {
        const json = {
          ...(scope === undefined ? {} : { scopes: scope }),
          ...(description === undefined ? {} : { description }),
        };
        const role = await session.request<Role>('PATCH', `${PATH}/${segment(name)}`, { json });
        session.result(
          role,
          `changed the role ${role.name}; it holds on every host within a second`,
        );
      },
    );
  group
    .command('delete')
    .description('delete a role that nobody has')
    .argument('<name>')
    .action(async (name: string) => {
      await session.request('DELETE', `${PATH}/${segment(name)}`);
      session.result({ name }, `deleted the role ${name}`);
    });
}
