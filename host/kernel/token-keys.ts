/**
 * The keys that sign capability tokens, for administrators: which there are, and taking a new one. The
 * keys themselves are derived from the root key and are nowhere; what is kept is their ids and times.
 * Invariant: exactly one key is unretired after a rotation, however many hosts rotate at once.
 */
import type { Audit } from './audit.ts';
import { event } from './records.ts';
import type { StoreTx } from './store.ts';
import type { Supervisor } from './supervisor.ts';
import type { TokenKey } from './key-ring.ts';

export interface TokenKeysOptions {
  readonly audit: Pick<Audit<StoreTx>, 'change'>;
  readonly supervisor: Pick<Supervisor, 'sync' | 'snapshot'>;
  readonly now: () => number;
  readonly newId: () => string;
}

export class TokenKeys {
  readonly #options: TokenKeysOptions;

  constructor(options: TokenKeysOptions) {
    this.#options = options;
  }

  /** Newest first; the unretired one signs. */
  list(): TokenKey[] {
    return newestFirst(this.#options.supervisor.snapshot.keys);
  }

  /**
   * Makes a new key, which signs from now on, and retires the others: what they signed is good until it
   * expires, at most 300 seconds. No call fails by it. Answers the new key.
   */
  async rotate(actor: string): Promise<TokenKey> {
    const { audit, supervisor, now, newId } = this.#options;
    const kid = `k-${newId().slice(0, 8)}`;
    const key = await audit.change(async (tx, note) => {
      const at = new Date(now()).toISOString();
      const retired: string[] = [];
      for (const old of await tx.keys()) {
        if (old.retiredAt !== null) continue;
        await tx.putKey({ ...old, retiredAt: at });
        retired.push(old.kid);
      }
      const fresh: TokenKey = { kid, createdAt: at, retiredAt: null };
      await tx.putKey(fresh);
      note(event('key.rotate', actor, null, { kid, retired }));
      return fresh;
    });
    await supervisor.sync();
    return key;
  }
}

function newestFirst(keys: readonly TokenKey[]): TokenKey[] {
  return keys.toSorted((a, b) => b.createdAt.localeCompare(a.createdAt));
}
