/**
 * API keys of users and clients. Invariants: a key's text is shown when it is made and never again; a key has
 * the scopes that it was made with, as far as its owner still has them, so it never gains any.
 */
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../../kernel/chain.ts';
import { event } from '../../kernel/records.ts';
import { newApiKey } from './credentials.ts';
import type { DirectoryOptions } from './directory.ts';
import { covers } from './rights.ts';
import type { ApiKey, ApiKeyView, Slice } from './store.ts';

const MAX_KEYS_OF_ONE = 100;

export interface ApiKeyInput {
  /** `user:alice` or `client:billing`. */
  readonly owner: string;
  readonly description?: string;
  /** All that the owner has now, when absent. */
  readonly scopes?: readonly string[];
  /** ISO 8601; none ends when absent. */
  readonly expiresAt?: string;
}

export class ApiKeys {
  readonly #options: DirectoryOptions;

  constructor(options: DirectoryOptions) {
    this.#options = options;
  }

  /** In order of id, of all owners or one. */
  list(slice: Slice, owner?: string): Promise<ApiKeyView[]> {
    return this.#options.store.apiKeys(slice, owner);
  }

  /** `key` in the answer is the credential; it is kept nowhere. */
  async create(input: ApiKeyInput, actor: Principal): Promise<ApiKeyView & { key: string }> {
    const { changes } = this.#options;
    const { text, id, digest } = newApiKey();
    const { owner, description = '', expiresAt } = input;
    const end = expiresAt === undefined ? undefined : Date.parse(expiresAt);
    if (end !== undefined && !(end > Date.parse(changes.at()))) {
      const text = 'expiresAt: must be a time to come, such as 2030-01-31T00:00:00Z';
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    const view = await changes.make(async (tx, note) => {
      const holder = await tx.identity(owner);
      if (holder === undefined) {
        const shown = JSON.stringify(owner.slice(0, 64));
        throw new NoaError('NOT_FOUND', `owner: there is no ${shown}: noa auth user list`);
      }
      if ((await tx.countApiKeys(owner)) >= MAX_KEYS_OF_ONE) {
        const most = `${owner} has ${MAX_KEYS_OF_ONE} API keys, which is as many as one may have: revoke one`;
        throw new NoaError('RESOURCE_EXHAUSTED', most);
      }
      const scopes = input.scopes ?? holder.effective;
      const missing = scopes.filter((scope) => !covers(holder.effective, scope));
      if (missing.length > 0) {
        throw new NoaError('INVALID_ARGUMENT', `scopes: ${owner} lacks ${missing.join(', ')}`);
      }
      // Whatever its scopes are, the key speaks with its owner's name and roles.
      changes.assertMayGive(actor, holder.effective);
      const shown: ApiKeyView = {
        id,
        subject: owner,
        description,
        scopes,
        createdAt: changes.at(),
        expiresAt: end === undefined ? null : new Date(end).toISOString(),
      };
      const key: ApiKey = { ...shown, digest };
      await tx.putApiKey(key);
      note(event('auth.key.create', actor.subject, null, { key: id, owner, scopes: [...scopes] }));
      return shown;
    });
    return { ...view, key: text };
  }

  /** Rejects with NOT_FOUND. */
  async revoke(id: string, actor: Principal): Promise<void> {
    await this.#options.changes.make(async (tx, note) => {
      const key = await tx.apiKey(id);
      if (key === undefined) {
        const shown = JSON.stringify(id.slice(0, 64));
        throw new NoaError('NOT_FOUND', `there is no API key ${shown}: noa auth key list`);
      }
      await tx.deleteApiKey(id);
      note(event('auth.key.revoke', actor.subject, null, { key: id, owner: key.subject }));
    });
  }
}
