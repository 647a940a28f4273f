/**
 * Values that administrators hand to plugins. Invariants: the store only ever sees a sealed value, bound
 * to its name and version; a value leaves by `read` alone and is in no error, record or list.
 */
import { NoaError } from '@noa/sdk/host';
import type { Audit, AuditEvent } from './audit.ts';
import type { Seal } from './seal.ts';
import type { SealedSecret, SecretView, Store, StoreTx } from './store.ts';

/** Longest value in bytes of UTF-8. */
export const MAX_SECRET_BYTES = 64 << 10;
const MAX_SECRETS = 1000;
/** Opened values that are remembered. */
const MAX_OPENED = 256;
const NAME = /^[a-z][a-z0-9._-]{0,63}$/;

export interface SecretsOptions {
  readonly store: Store;
  readonly audit: Audit<StoreTx>;
  readonly seal: Seal;
  /** Of the state that this host follows: what was opened under another one is opened anew. */
  readonly revision: () => number;
  readonly now: () => number;
}

export class Secrets {
  readonly #options: SecretsOptions;
  readonly #seal: Seal;
  readonly #opened = new Map<string, string>();
  #openedAt = -1;
  #changes = 0;

  constructor(options: SecretsOptions) {
    this.#options = options;
    this.#seal = options.seal;
  }

  /** Names and times, in order of name. */
  list(): Promise<SecretView[]> {
    return this.#options.store.secrets();
  }

  /** Names of those that this host's root key does not open. */
  async foreign(): Promise<string[]> {
    const names: string[] = [];
    for (const { name } of await this.list()) {
      const secret = await this.#options.store.secret(name);
      if (secret !== undefined && !this.#seal.isOurs(secret)) names.push(name);
    }
    return names;
  }

  /** Sets a secret or replaces its value. Throws INVALID_ARGUMENT, PAYLOAD_TOO_LARGE, RESOURCE_EXHAUSTED. */
  async set(name: string, value: string, actor: string): Promise<SecretView> {
    checkName(name);
    checkValue(value);
    return this.#change(async (tx, note) => {
      const present = await tx.secret(name);
      if (present === undefined && (await tx.countSecrets()) >= MAX_SECRETS) {
        const text = `there are ${MAX_SECRETS} secrets, which is as many as there may be: remove one`;
        throw new NoaError('RESOURCE_EXHAUSTED', text);
      }
      const version = (present?.version ?? 0) + 1;
      const updatedAt = new Date(this.#options.now()).toISOString();
      const createdAt = present?.createdAt ?? updatedAt;
      const sealed = this.#seal.close(boundTo(name, version), value);
      await tx.putSecret({ name, createdAt, updatedAt, version, ...sealed });
      note(event('secret.set', actor, name, { version }));
      return { name, createdAt, updatedAt };
    });
  }

  /** Rejects with NOT_FOUND when there is none. */
  async remove(name: string, actor: string): Promise<void> {
    await this.#change(async (tx, note) => {
      if ((await tx.secret(name)) === undefined) {
        const text = `there is no secret ${JSON.stringify(name.slice(0, 64))}: noa secret list`;
        throw new NoaError('NOT_FOUND', text);
      }
      await tx.deleteSecret(name);
      note(event('secret.remove', actor, name, {}));
    });
  }

  /**
   * The value, or undefined when none is set. Rejects with INTERNAL when it was sealed under another root
   * key or changed in the database.
   */
  async read(name: string): Promise<string | undefined> {
    const revision = this.#options.revision();
    if (revision !== this.#openedAt) this.#opened.clear();
    this.#openedAt = revision;
    const known = this.#opened.get(name);
    if (known !== undefined) return known;
    const changes = this.#changes;
    const secret = await this.#options.store.secret(name);
    if (secret === undefined) return undefined;
    const value = this.#open(secret);
    // What was read while a change was made may be from before it.
    if (changes === this.#changes && revision === this.#openedAt) {
      if (this.#opened.size >= MAX_OPENED) this.#opened.clear();
      this.#opened.set(name, value);
    }
    return value;
  }

  async #change<T>(
    work: (tx: StoreTx, note: (event: AuditEvent) => void) => Promise<T>,
  ): Promise<T> {
    try {
      return await this.#options.audit.change(work);
    } finally {
      this.#changes += 1;
      this.#opened.clear();
    }
  }

  #open({ name, version, ...sealed }: SealedSecret): string {
    if (!this.#seal.isOurs(sealed)) {
      throw new NoaError(
        'INTERNAL',
        `the secret ${name} was sealed under another root key: give this host that auth.root_key, or set the secret again`,
      );
    }
    try {
      return this.#seal.open(boundTo(name, version), sealed);
    } catch (cause) {
      const text = `the secret ${name} was changed in the database by another hand: set it again`;
      throw new NoaError('INTERNAL', text, { cause });
    }
  }
}

/** A sealed value under another name, or of an earlier time, does not open. */
function boundTo(name: string, version: number): readonly (string | number)[] {
  return ['noa/secret', name, version];
}

function checkName(name: string): void {
  if (NAME.test(name)) return;
  throw new NoaError(
    'INVALID_ARGUMENT',
    `name ${JSON.stringify(name.slice(0, 64))} must be a small letter, then at most 63 small letters, digits and . _ -`,
  );
}

/** Says nothing of the value itself. */
function checkValue(value: string): void {
  if (value === '') throw new NoaError('INVALID_ARGUMENT', 'value must not be empty');
  if (!value.isWellFormed()) {
    throw new NoaError('INVALID_ARGUMENT', 'value has a lone surrogate: encode bytes as base64');
  }
  if (Buffer.byteLength(value) > MAX_SECRET_BYTES) {
    const text = `value has more than ${MAX_SECRET_BYTES} bytes: keep less in a secret`;
    throw new NoaError('PAYLOAD_TOO_LARGE', text);
  }
}

function event(
  kind: string,
  actor: string,
  name: string,
  details: { [name: string]: number },
): AuditEvent {
  return {
    kind,
    actor,
    plugin: null,
    capability: 'secrets',
    operation: null,
    resources: [name],
    outcome: 'ok',
    code: null,
    details,
  };
}
