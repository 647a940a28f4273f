/**
 * Users, clients and roles, for administrators. Invariants: a change and its audit record are one
 * transaction; nobody brings about a right that they do not have, neither by giving it nor by taking hold of an
 * identity that has it; a secret leaves once, when it is made.
 */
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../../kernel/chain.ts';
import { event } from '../../kernel/records.ts';
import type { Changes } from './changes.ts';
import { newClientSecret } from './credentials.ts';
import { assertScopes } from './rights.ts';
import type { Holder, Identity, IdentityKind, IdentityStore, IdentityTx, Slice } from './store.ts';

const MAX_IDENTITIES = 10_000;

/** What may be shown of a user or client. */
export interface IdentityView extends Identity {
  readonly id: string;
}

/** What may be set of one; of a client, nothing external. What is absent stays, or is empty at first. */
export type IdentityInput = Partial<Omit<Identity, 'subject' | 'createdAt' | 'updatedAt'>>;

export interface DirectoryOptions {
  readonly store: IdentityStore;
  readonly changes: Changes;
}

export class Directory {
  readonly #options: DirectoryOptions;

  constructor(options: DirectoryOptions) {
    this.#options = options;
  }

  /** In order of id. */
  async list(kind: IdentityKind, { after, limit }: Slice): Promise<IdentityView[]> {
    const slice = { after: after === undefined ? undefined : `${kind}:${after}`, limit };
    return (await this.#options.store.identities(kind, slice)).map(viewOf);
  }

  /** With what its roles give. Rejects with NOT_FOUND. */
  async show(kind: IdentityKind, id: string): Promise<IdentityView & Holder> {
    const holder = await this.#options.store.holder(`${kind}:${id}`);
    if (holder === undefined) throw unknown(kind, id);
    return viewOf(holder);
  }

  /** A client's secret is in the answer, and nowhere else ever after. */
  async create(
    kind: IdentityKind,
    id: string,
    input: IdentityInput,
    actor: Principal,
  ): Promise<IdentityView & { secret?: string }> {
    assertScopes(input.scopes);
    const made = kind === 'client' ? newClientSecret() : undefined;
    const identity = await this.#options.changes.make(async (tx, note) => {
      const subject = `${kind}:${id}`;
      if ((await tx.identity(subject)) !== undefined) {
        throw new NoaError('CONFLICT', `id: there is a ${kind} ${id} already`);
      }
      if ((await tx.countIdentities(kind)) >= MAX_IDENTITIES) {
        const text = `there are ${MAX_IDENTITIES} ${kind}s, which is as many as there may be: delete one`;
        throw new NoaError('RESOURCE_EXHAUSTED', text);
      }
      const at = this.#options.changes.at();
      const fresh: Identity = {
        description: '',
        roles: [],
        scopes: [],
        level: null,
        disabled: false,
        issuer: null,
        externalSubject: null,
        ...input,
        subject,
        createdAt: at,
        updatedAt: at,
      };
      assertLinkIsWhole(fresh);
      this.#options.changes.assertMayGive(actor, await effectiveOf(tx, fresh));
      this.#options.changes.assertMayRaise(actor, { roles: [], level: null }, fresh);
      await tx.putIdentity(fresh, made?.digest);
      note(event(`auth.${kind}.create`, actor.subject, null, detailsOf(fresh)));
      return fresh;
    });
    return { ...viewOf(identity), ...(made && { secret: made.secret }) };
  }

  /** Rejects with NOT_FOUND. Whom it disables is out at once, with all its sessions. */
  async update(
    kind: IdentityKind,
    id: string,
    input: IdentityInput,
    actor: Principal,
  ): Promise<IdentityView> {
    assertScopes(input.scopes);
    return this.#options.changes.make(async (tx, note) => {
      const present = await mustHave(tx, kind, id);
      const { effective, ...before } = present;
      const next: Identity = { ...before, ...input, updatedAt: this.#options.changes.at() };
      assertLinkIsWhole(next);
      // Whoever may write here may also shut anybody out.
      const isOnlyDisabled =
        next.disabled && Object.keys(input).every((name) => name === 'disabled');
      if (!isOnlyDisabled) {
        const after = await effectiveOf(tx, next);
        this.#options.changes.assertMayGive(actor, [...new Set([...effective, ...after])]);
        this.#options.changes.assertMayRaise(actor, before, next);
      }
      await tx.putIdentity(next);
      const ended = next.disabled ? await tx.deleteSessions(next.subject) : 0;
      note(event(`auth.${kind}.update`, actor.subject, null, { ...detailsOf(next), ended }));
      return viewOf(next);
    });
  }

  /**
   * With its sessions and API keys. Rejects with NOT_FOUND. Asks for all that the identity may, for whoever
   * deletes it can take its name, by which policies and plugins know it.
   */
  async remove(kind: IdentityKind, id: string, actor: Principal): Promise<void> {
    await this.#options.changes.make(async (tx, note) => {
      const { subject, effective } = await mustHave(tx, kind, id);
      this.#options.changes.assertMayGive(actor, effective);
      await tx.deleteIdentity(subject);
      note(event(`auth.${kind}.delete`, actor.subject, null, { subject }));
    });
  }

  /** A new secret for a client: the one before is worth nothing from now on, and so is what it opened. */
  async rotateSecret(id: string, actor: Principal): Promise<IdentityView & { secret: string }> {
    const { secret, digest } = newClientSecret();
    const identity = await this.#options.changes.make(async (tx, note) => {
      const { effective, ...present } = await mustHave(tx, 'client', id);
      this.#options.changes.assertMayGive(actor, effective);
      const next: Identity = { ...present, updatedAt: this.#options.changes.at() };
      await tx.putIdentity(next, digest);
      const ended = await tx.deleteSessions(next.subject);
      const details = { subject: next.subject, ended };
      note(event('auth.client.rotate-secret', actor.subject, null, details));
      return next;
    });
    return { ...viewOf(identity), secret };
  }
}

function viewOf<T extends Identity>(identity: T): T & IdentityView {
  return { id: identity.subject.slice(identity.subject.indexOf(':') + 1), ...identity };
}

async function mustHave(tx: IdentityTx, kind: IdentityKind, id: string): Promise<Holder> {
  const holder = await tx.identity(`${kind}:${id}`);
  if (holder === undefined) throw unknown(kind, id);
  return holder;
}

function unknown(kind: IdentityKind, id: string): NoaError {
  const shown = JSON.stringify(id.slice(0, 64));
  return new NoaError('NOT_FOUND', `there is no ${kind} ${shown}: noa auth ${kind} list`);
}

function assertLinkIsWhole({ issuer, externalSubject }: Identity): void {
  if ((issuer === null) === (externalSubject === null)) return;
  const text = 'issuer, externalSubject: a link names both; set both, or both to null';
  throw new NoaError('INVALID_ARGUMENT', text);
}

/** Rejects with INVALID_ARGUMENT when there is no such role. */
async function effectiveOf(tx: IdentityTx, { roles, scopes }: Identity): Promise<string[]> {
  const all = new Set(scopes);
  for (const name of roles) {
    const role = await tx.role(name);
    if (role === undefined) {
      throw new NoaError('INVALID_ARGUMENT', `roles: there is no role ${name}: noa auth role list`);
    }
    for (const scope of role.scopes) all.add(scope);
  }
  return [...all];
}

function detailsOf({ subject, roles, scopes, level, disabled, issuer }: Identity) {
  return { subject, roles: [...roles], scopes: [...scopes], level, disabled, issuer };
}
