/**
 * Capability tokens of machine callers: HS256 JWTs (RFC 7519) that say which exports their bearer may call
 * and, when they say so, what the plugins behind them may do on the way. Invariants: a token is good only
 * while its record is there, on every host; whoever holds one makes others that are narrower and die with
 * it, never wider; none of them passes for the token of a plugin, nor the other way round.
 */
import { covers, NoaError } from '@noa/sdk/host';
import { errors, jwtVerify, SignJWT } from 'jose';
import type { Audit } from './audit.ts';
import type { Budgets } from './budgets.ts';
import {
  assertNarrower,
  AUDIENCE,
  BUDGET_FIELDS,
  type CallerTokenInput,
  type CallerTokenStore,
  type CallerTokenView,
  claimsOf,
  describe,
  type Reach,
} from './caller-token-records.ts';
import type { Principal } from './chain.ts';
import type { Right } from './grants.ts';
import { KeyRing, MAX_LIFE, type TokenKey } from './key-ring.ts';
import { event } from './records.ts';
import type { StoreTx } from './store.ts';
import { type Budget, isBudget, MIN_LIFE, type Token, type TokenService } from './tokens.ts';

/** Of the header `typ`, by which a token is known for what it is before it is verified. */
export const CALLER_TOKEN_TYPE = 'noa-caller+jwt';
const ISSUER = 'noa';
const MAX_DEPTH = 8;
const MAX_TOKENS = 10_000;
/** That descend from one that was minted, itself included. */
const MAX_FAMILY = 1000;

/** A token whose bearer was let in, as a part of their Principal. */
export interface CallerToken {
  readonly view: CallerTokenView;
  /** What the plugins behind it work with; undefined: with what they have. */
  readonly rights: readonly Right[] | undefined;
}

export interface CallerTokensOptions {
  readonly store: CallerTokenStore;
  readonly audit: Pick<Audit<StoreTx>, 'change' | 'record'>;
  readonly rootKey: Uint8Array;
  readonly tokens: Pick<TokenService, 'adopt' | 'revoke'>;
  readonly budgets: Pick<Budgets, 'open' | 'begin' | 'end' | 'take' | 'keep' | 'settle'>;
  /** Has this host take over what was changed. */
  readonly sync: () => Promise<void>;
  /** Throws INVALID_ARGUMENT for what no capability of this host has; answers the canonical form. */
  readonly judge: (reach: Reach) => Reach;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly newId: () => string;
}

export class CallerTokens {
  readonly #options: CallerTokensOptions;
  readonly #keys: KeyRing;
  /** Tokens whose children live here, until they expire. */
  readonly #adopted = new Map<
    string,
    { readonly expiresAt: number; readonly budget: Budget | null }
  >();

  constructor(options: CallerTokensOptions) {
    this.#options = options;
    this.#keys = new KeyRing(options.rootKey, 'noa caller token v1');
  }

  /** A token for a caller of this name. Nobody gives a level above their own. */
  async mint(
    input: CallerTokenInput & { readonly caller: string; readonly level?: string },
    actor: Principal,
  ): Promise<{ view: CallerTokenView; token: string }> {
    const { caller, level = null } = input;
    if (level !== null && level < (actor.level ?? 'L5') && !actor.scopes.includes('admin')) {
      const text = `level: ${level} is above that of ${actor.subject}: ask for ${actor.level ?? 'L5'}`;
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    const view = this.#view(input, `caller:${caller}`, level, actor.subject, undefined);
    await this.#options.audit.change(async (tx, note) => {
      const kept = this.#options.store.in(tx);
      if ((await kept.count(view.createdAt)) >= MAX_TOKENS) {
        const text = `there are ${MAX_TOKENS} living tokens, which is as many as there may be`;
        throw new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: MAX_LIFE * 1000 });
      }
      await kept.put(view);
      note(event('token.mint', actor.subject, null, describe(view)));
    });
    return { view, token: await this.#sign(view) };
  }

  /** A narrower token of whoever bears `parent`. */
  async attenuate(
    input: CallerTokenInput,
    { view: parent }: CallerToken,
  ): Promise<{ view: CallerTokenView; token: string }> {
    const { subject, level } = parent;
    const view = this.#view(input, subject, level, subject, parent);
    assertNarrower(view, parent);
    const at = this.#at();
    const line = await this.#options.store.line(parent.id, at);
    if (line.length >= MAX_DEPTH) {
      throw new NoaError('RESOURCE_EXHAUSTED', `tokens descend ${MAX_DEPTH} deep at most`);
    }
    const root = line.at(-1)?.id ?? parent.id;
    if (!(await this.#options.store.putChild(view, root, MAX_FAMILY))) {
      const text = `the token was revoked, or it and those that descend from the same are ${MAX_FAMILY} already`;
      throw new NoaError('RESOURCE_EXHAUSTED', text);
    }
    this.#options.audit.record(event('token.attenuate', subject, null, describe(view)));
    return { view, token: await this.#sign(view) };
  }

  /** With all that descend from it; on every host within the bound on changes. Rejects with NOT_FOUND. */
  async revoke(id: string, actor: string): Promise<void> {
    await this.#options.audit.change(async (tx, note) => {
      if (!(await this.#options.store.in(tx).delete(id))) {
        const shown = JSON.stringify(id.slice(0, 64));
        throw new NoaError('NOT_FOUND', `there is no living token ${shown}: noa token list`);
      }
      note(event('token.revoke', actor, null, { token: id }));
    });
    await this.#options.sync();
  }

  list(after: string | undefined, limit: number): Promise<readonly CallerTokenView[]> {
    return this.#options.store.list(after, limit, this.#at());
  }

  /** What a token holds; undefined for one that is not good, or never was. */
  async inspect(text: string): Promise<CallerTokenView | undefined> {
    return (await this.#lineOf(text))[0];
  }

  /** Who bears this token, until when it is good; undefined when it is not. */
  async find(text: string): Promise<{ principal: Principal; expiresAt: number } | undefined> {
    const line = await this.#lineOf(text);
    const [view] = line;
    if (view === undefined) return undefined;
    const isNew = line.some(({ id, budget }) => budget !== null && !this.#adopted.has(id));
    for (const each of line.toReversed()) this.#adopt(each);
    if (isNew) await this.shareBudgets();
    const { subject, level } = view;
    const rights = view.rights?.map((reach) => ({ ...reach, grants: [] }));
    const principal: Principal = {
      subject,
      scopes: ['plugins:call'],
      ...(level === null ? {} : { level }),
      token: { view, rights },
    };
    return { principal, expiresAt: Date.parse(view.expiresAt) };
  }

  /**
   * Lets a bearer call an export, and counts it. Answers the token that stands above the plugin's own, and
   * what is to be told when the call is over. Throws CAPABILITY_DENIED or RESOURCE_EXHAUSTED.
   */
  enter(
    { view, rights }: CallerToken,
    target: { readonly plugin: string; readonly export: string; readonly id: string },
  ): { above(own: readonly Right[]): Token; leave(): void } {
    const { audit, budgets, now } = this.#options;
    const resource = `${target.plugin}/${target.export}`;
    const use = {
      actor: view.subject,
      plugin: null,
      capability: 'plugin',
      operation: 'call',
      resources: [resource],
      details: { token: view.id, request: target.id },
    };
    try {
      assertCovers(view, resource);
    } catch (error) {
      const code = 'CAPABILITY_DENIED';
      audit.record({ ...use, kind: 'capability.denial', outcome: 'denied', code });
      throw error;
    }
    const claims = claimsOf(view);
    budgets.begin(claims);
    audit.record({ ...use, kind: 'capability.use', outcome: 'ok', code: null });
    const started = now();
    return {
      above: (own) => ({ text: '', claims: { ...claims, rights: rights ?? own } }),
      leave: () => budgets.end(claims, {}, now() - started),
    };
  }

  useKeys(keys: readonly TokenKey[]): void {
    this.#keys.use(keys);
  }

  /** What was revoked, on any host, holds no more when this resolves. */
  async forgetRevoked(): Promise<void> {
    const ids = [...this.#adopted.keys()];
    if (ids.length === 0) return;
    const present = new Set(await this.#options.store.present(ids));
    for (const id of ids) {
      if (present.has(id)) continue;
      this.#options.tokens.revoke(id);
      this.#adopted.delete(id);
    }
  }

  /** Tells other hosts what was spent here, and hears what was spent there. */
  async shareBudgets(): Promise<void> {
    const { budgets, store } = this.#options;
    const shared = [...this.#adopted].filter(([, { budget }]) => budget !== null);
    if (shared.length === 0) return;
    const spent = shared.map(([id]) => ({ id, spent: budgets.take(id) }));
    try {
      for (const { id, spent: told } of await store.spend(spent)) {
        budgets.settle(id, this.#adopted.get(id)?.budget ?? {}, told);
      }
    } catch (error) {
      for (const { id, spent: taken } of spent) budgets.keep(id, taken);
      throw error;
    }
  }

  /** Forgets what has expired, here and in the store. */
  async sweep(): Promise<void> {
    const now = this.#options.now();
    for (const [id, { expiresAt }] of this.#adopted) if (expiresAt < now) this.#adopted.delete(id);
    await this.#options.store.sweep(this.#at());
  }

  #adopt(view: CallerTokenView): void {
    if (this.#adopted.has(view.id)) return;
    const claims = claimsOf(view);
    this.#options.tokens.adopt(claims);
    this.#options.budgets.open(claims, view.budget !== null);
    this.#adopted.set(view.id, { expiresAt: claims.expiresAt * 1000, budget: view.budget });
  }

  async #lineOf(text: string): Promise<readonly CallerTokenView[]> {
    const id = await this.#verify(text);
    return id === undefined ? [] : this.#options.store.line(id, this.#at());
  }

  /** The id in a token that is genuine and alive; the record tells the rest. */
  async #verify(text: string): Promise<string | undefined> {
    const now = this.#options.now();
    try {
      const { payload } = await jwtVerify(
        text,
        ({ kid }) => {
          const secret = this.#keys.verifier(kid, now);
          if (typeof secret === 'string') throw new errors.JWTInvalid(`the key is ${secret}`);
          return secret;
        },
        {
          algorithms: ['HS256'],
          typ: CALLER_TOKEN_TYPE,
          issuer: ISSUER,
          audience: AUDIENCE,
          requiredClaims: ['sub', 'jti', 'iat', 'nbf', 'exp', 'cap'],
          currentDate: new Date(now),
        },
      );
      return payload.aud === AUDIENCE ? payload.jti : undefined;
    } catch (error) {
      if (error instanceof errors.JOSEError) return undefined;
      throw error;
    }
  }

  #view(
    { calls, rights, budget, lifeSeconds = MAX_LIFE }: CallerTokenInput,
    subject: string,
    level: string | null,
    createdBy: string,
    parent: CallerTokenView | undefined,
  ): CallerTokenView {
    if (lifeSeconds < MIN_LIFE || lifeSeconds > MAX_LIFE) {
      const text = `lifeSeconds: a token lives ${MIN_LIFE} to ${MAX_LIFE} seconds`;
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    if (!isBudget(budget)) {
      const text = `budget: holds numbers from 0, of ${BUDGET_FIELDS.join(', ')}`;
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    const { judge, now, newId } = this.#options;
    const call: Reach = { capability: 'plugin', operations: ['call'], resources: calls };
    const seconds = Math.floor(now() / 1000);
    const end = (seconds + lifeSeconds) * 1000;
    const latest = parent === undefined ? end : Math.min(end, Date.parse(parent.expiresAt));
    return {
      id: newId(),
      parent: parent?.id ?? null,
      subject,
      calls: judge(call).resources,
      rights: rights?.map(judge) ?? null,
      budget: budget ?? null,
      level,
      createdBy,
      createdAt: new Date(seconds * 1000).toISOString(),
      expiresAt: new Date(latest).toISOString(),
    };
  }

  #sign(view: CallerTokenView): Promise<string> {
    const { kid, secret } = this.#keys.signer();
    const { id, parent, subject, calls, rights, budget } = view;
    const { issuedAt, expiresAt } = claimsOf(view);
    const cap = [
      { capability: 'plugin', operations: ['call'], resources: calls },
      ...(rights ?? []),
    ];
    return new SignJWT({
      cap: cap.map(({ capability: c, operations: o, resources: r }) => ({ c, o, r })),
      ...(parent === null ? {} : { parent }),
      ...(budget === null ? {} : { budget }),
    })
      .setProtectedHeader({ alg: 'HS256', typ: CALLER_TOKEN_TYPE, kid })
      .setIssuer(ISSUER)
      .setSubject(subject)
      .setAudience(AUDIENCE)
      .setJti(id)
      .setIssuedAt(issuedAt)
      .setNotBefore(issuedAt)
      .setExpirationTime(expiresAt)
      .sign(secret);
  }

  #at(): string {
    return new Date(this.#options.now()).toISOString();
  }
}

/** Throws CAPABILITY_DENIED for a call (`plugin/export`) that a token is not for. */
export function assertCovers({ subject, calls }: CallerTokenView, resource: string): void {
  if (calls.some((pattern) => covers(pattern, resource))) return;
  const text = `the token of ${subject} does not cover ${resource} (it covers ${calls.join(', ')})`;
  throw new NoaError('CAPABILITY_DENIED', text);
}
