/** Roles: lists of scopes that identities have by name. */
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../../kernel/chain.ts';
import { event } from '../../kernel/records.ts';
import type { DirectoryOptions } from './directory.ts';
import { assertScopes } from './rights.ts';
import type { Role, Slice } from './store.ts';

const MAX_ROLES = 500;

export type RoleInput = Partial<Pick<Role, 'description' | 'scopes'>>;

export class Roles {
  readonly #options: DirectoryOptions;

  constructor(options: DirectoryOptions) {
    this.#options = options;
  }

  /** In order of name. */
  list(slice: Slice): Promise<Role[]> {
    return this.#options.store.roles(slice);
  }

  /** Rejects with NOT_FOUND. */
  async show(name: string): Promise<Role> {
    const role = await this.#options.store.role(name);
    if (role === undefined) throw unknown(name);
    return role;
  }

  async create(name: string, input: RoleInput, actor: Principal): Promise<Role> {
    assertScopes(input.scopes);
    const { changes } = this.#options;
    return changes.make(async (tx, note) => {
      if ((await tx.role(name)) !== undefined) {
        throw new NoaError('CONFLICT', `name: there is a role ${name} already`);
      }
      if ((await tx.countRoles()) >= MAX_ROLES) {
        const text = `there are ${MAX_ROLES} roles, which is as many as there may be: delete one`;
        throw new NoaError('RESOURCE_EXHAUSTED', text);
      }
      const at = changes.at();
      const role: Role = {
        description: '',
        scopes: [],
        ...input,
        name,
        createdAt: at,
        updatedAt: at,
      };
      changes.assertMayGive(actor, role.scopes);
      await tx.putRole(role);
      note(
        event('auth.role.create', actor.subject, null, { role: name, scopes: [...role.scopes] }),
      );
      return role;
    });
  }

  /** What it gives, whoever has the role has from now on. Rejects with NOT_FOUND. */
  async update(name: string, input: RoleInput, actor: Principal): Promise<Role> {
    assertScopes(input.scopes);
    const { changes } = this.#options;
    return changes.make(async (tx, note) => {
      const present = await tx.role(name);
      if (present === undefined) throw unknown(name);
      const role: Role = { ...present, ...input, updatedAt: changes.at() };
      // What is taken away counts too, or anybody could empty an administrator's role.
      changes.assertMayGive(actor, [...new Set([...present.scopes, ...role.scopes])]);
      await tx.putRole(role);
      note(
        event('auth.role.update', actor.subject, null, { role: name, scopes: [...role.scopes] }),
      );
      return role;
    });
  }

  /** Rejects with NOT_FOUND, and with CONFLICT while someone has it. */
  async remove(name: string, actor: Principal): Promise<void> {
    await this.#options.changes.make(async (tx, note) => {
      if ((await tx.role(name)) === undefined) throw unknown(name);
      const holders = await tx.holdersOf(name, 3);
      if (holders.length > 0) {
        const text = `${holders.join(', ')} ${holders.length === 1 ? 'has' : 'have'} the role ${name}: take it from them first`;
        throw new NoaError('CONFLICT', text);
      }
      await tx.deleteRole(name);
      note(event('auth.role.delete', actor.subject, null, { role: name }));
    });
  }
}

function unknown(name: string): NoaError {
  const shown = JSON.stringify(name.slice(0, 64));
  return new NoaError('NOT_FOUND', `there is no role ${shown}: noa auth role list`);
}
