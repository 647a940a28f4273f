/**
 * The token endpoint (RFC 6749 sections 4.4 and 6) and revocation (RFC 7009). Invariants: nothing is given
 * without the client's secret; a session's scopes are fixed when it is opened and only narrow; a refresh token
 * is good once, and one that comes twice ends its session with all that was made from it, because then two
 * have it.
 */
import { Buckets, RateLimiter } from '../../kernel/rate.ts';
import { event } from '../../kernel/records.ts';
import type { AccessTokens } from './access-tokens.ts';
import { addressKey } from './address.ts';
import type { Changes } from './changes.ts';
import { isSecretOf, newSessionId, type RefreshTokens } from './credentials.ts';
import { OAuthError } from './oauth-error.ts';
import { common, covers, SCOPE } from './rights.ts';
import type { ClientHolder, IdentityStore, Session } from './store.ts';

/** Wrong secrets that one address, and one client, may show in a second; a right one passes all the same. */
const FAILURES_PER_SECOND = 5;
/** Tokens of one client on each host: more than one that keeps its tokens until they expire has use for. */
const ISSUES = { burst: 100, perSecond: 1 };
/** Sessions of one client; beyond, those that were unused longest end. */
const MAX_SESSIONS = 1000;
/** What a header can carry with the rest of a token. */
const MAX_SCOPE_TEXT = 3072;
/** Clients whose secret is being looked up at one time: the database has others to serve. */
const MAX_PENDING = 64;
const CLIENT_ID = /^[a-z][a-z0-9._-]{0,63}$/;
const SCOPE_TEXT = new RegExp(`^${SCOPE}( ${SCOPE})*$`);

/** What a request of this endpoint says; who sends it is known by its secret alone. */
export interface TokenRequest {
  readonly clientId: string | undefined;
  readonly clientSecret: string | undefined;
  /** Those of the body; none stands twice. */
  readonly parameters: ReadonlyMap<string, string>;
  readonly remoteAddress: string | undefined;
}

/** RFC 6749 section 5.1. */
export interface TokenAnswer {
  readonly access_token: string;
  readonly token_type: 'Bearer';
  readonly expires_in: number;
  readonly refresh_token: string;
  readonly scope: string;
}

export interface TokenEndpointOptions {
  readonly store: IdentityStore;
  readonly changes: Changes;
  readonly tokens: AccessTokens;
  readonly refreshTokens: RefreshTokens;
  readonly accessLifeSeconds: number;
  readonly refreshLifeSeconds: number;
  readonly now: () => number;
}

export class TokenEndpoint {
  readonly #options: TokenEndpointOptions;
  readonly #failures: RateLimiter;
  readonly #issues: Buckets;
  #pending = 0;

  constructor(options: TokenEndpointOptions) {
    this.#options = options;
    this.#failures = new RateLimiter(FAILURES_PER_SECOND, options.now);
    this.#issues = new Buckets(ISSUES, options.now);
  }

  /** Rejects with OAuthError, or with NoaError RATE_LIMITED or UNAVAILABLE. */
  async grant(request: TokenRequest): Promise<TokenAnswer> {
    const client = await this.#authenticate(request);
    const retryAfterMs = this.#issues.take(client.subject);
    if (retryAfterMs > 0) {
      const text = 'this client takes too many tokens: use each until it expires';
      throw new OAuthError('temporarily_unavailable', text, { status: 429, retryAfterMs });
    }
    switch (request.parameters.get('grant_type')) {
      case 'client_credentials':
        return this.#open(client, request);
      case 'refresh_token':
        return this.#refresh(client, request);
      case undefined:
        throw new OAuthError('invalid_request', 'grant_type: is required');
      default:
        throw new OAuthError(
          'unsupported_grant_type',
          'grant_type: client_credentials or refresh_token',
        );
    }
  }

  /** Ends the session of a token of this client; of any other token says nothing (RFC 7009 section 2.2). */
  async revoke(request: TokenRequest): Promise<void> {
    const client = await this.#authenticate(request);
    const token = request.parameters.get('token');
    if (token === undefined) throw new OAuthError('invalid_request', 'token: is required');
    const id =
      this.#options.refreshTokens.read(token)?.sessionId ??
      (await this.#options.tokens.verify(token))?.sessionId;
    if (id === undefined) return;
    const found = await this.#options.store.session(id, this.#options.changes.at());
    if (found?.session.subject === client.subject) await this.#end(id, client.subject, 'revoke');
  }

  async #authenticate(request: TokenRequest): Promise<ClientHolder> {
    const { clientId, clientSecret, remoteAddress } = request;
    if (clientId === undefined || clientSecret === undefined) {
      const text = 'the client shows its id and secret by HTTP Basic or in the body';
      throw new OAuthError('invalid_client', text);
    }
    const client = CLIENT_ID.test(clientId) ? await this.#find(`client:${clientId}`) : undefined;
    if (client !== undefined && isSecretOf(clientSecret, client.secretDigest) && !client.disabled) {
      return client;
    }
    this.#failures.take(`address ${addressKey(remoteAddress)}`, 'wrong secrets from one address');
    this.#failures.take(`client ${clientId.slice(0, 64)}`, 'wrong secrets of one client');
    throw new OAuthError('invalid_client', 'the client is not known, or its secret is not this');
  }

  async #find(subject: string): Promise<ClientHolder | undefined> {
    if (this.#pending >= MAX_PENDING) {
      const text = 'too many clients ask at one time: try again';
      const options = { status: 503, retryAfterMs: 1000 };
      throw new OAuthError('temporarily_unavailable', text, options);
    }
    this.#pending += 1;
    try {
      return await this.#options.store.client(subject);
    } finally {
      this.#pending -= 1;
    }
  }

  async #open(client: ClientHolder, { parameters }: TokenRequest): Promise<TokenAnswer> {
    const { changes, store, refreshLifeSeconds } = this.#options;
    const session: Session = {
      id: newSessionId(),
      subject: client.subject,
      scopes: wantedOf(parameters, client.effective) ?? client.effective,
      serial: 1,
      createdAt: changes.at(),
      expiresAt: changes.at(refreshLifeSeconds * 1000),
    };
    const answer = await this.#answer(client, session, session.scopes);
    await store.openSession(session, MAX_SESSIONS);
    const details = { session: session.id, scope: answer.scope };
    changes.record(event('auth.token.issue', client.subject, null, details));
    return answer;
  }

  async #refresh(client: ClientHolder, { parameters }: TokenRequest): Promise<TokenAnswer> {
    const { changes, refreshTokens, store } = this.#options;
    const text = parameters.get('refresh_token');
    if (text === undefined) throw new OAuthError('invalid_request', 'refresh_token: is required');
    const shown = refreshTokens.read(text);
    const found = shown && (await store.session(shown.sessionId, changes.at()));
    if (shown === undefined || found?.session.subject !== client.subject) throw invalidGrant();
    const { session } = found;
    const scopes = wantedOf(parameters, session.scopes) ?? session.scopes;
    if (!(await store.refreshSession(session.id, shown.serial, changes.at()))) {
      await this.#end(session.id, client.subject, 'reuse');
      throw invalidGrant();
    }
    const next = { ...session, serial: shown.serial + 1 };
    const answer = await this.#answer(client, next, common(scopes, client.effective));
    const details = { session: session.id, scope: answer.scope };
    changes.record(event('auth.token.refresh', client.subject, null, details));
    return answer;
  }

  async #answer(
    client: ClientHolder,
    session: Session,
    scopes: readonly string[],
  ): Promise<TokenAnswer> {
    const { tokens, refreshTokens, accessLifeSeconds, now } = this.#options;
    const { subject, roles, level } = client;
    const scope = scopes.join(' ');
    if (scope.length > MAX_SCOPE_TEXT) {
      const text = 'scope: these are more than a token can carry; ask for those that are needed';
      throw new OAuthError('invalid_scope', text);
    }
    const leftSeconds = Math.floor((Date.parse(session.expiresAt) - now()) / 1000);
    const life = Math.max(1, Math.min(accessLifeSeconds, leftSeconds));
    const claims = { subject, scopes, roles, level: level ?? undefined };
    const clientId = subject.slice(subject.indexOf(':') + 1);
    return {
      access_token: await tokens.sign({ ...claims, clientId, sessionId: session.id }, life),
      token_type: 'Bearer',
      expires_in: life,
      refresh_token: refreshTokens.write(session.id, session.serial),
      scope,
    };
  }

  async #end(id: string, actor: string, why: 'revoke' | 'reuse'): Promise<void> {
    await this.#options.changes.make(async (tx, note) => {
      if ((await tx.session(id)) === undefined) return;
      await tx.deleteSession(id);
      note({
        ...event(`auth.session.${why}`, actor, null, { session: id }),
        ...(why === 'reuse' ? { outcome: 'denied', code: 'UNAUTHENTICATED' } : {}),
      });
    });
  }
}

/** The scopes that are asked for; undefined when none are named. */
function wantedOf(
  parameters: ReadonlyMap<string, string>,
  held: readonly string[],
): readonly string[] | undefined {
  const text = parameters.get('scope');
  if (text === undefined) return undefined;
  if (!SCOPE_TEXT.test(text)) {
    throw new OAuthError('invalid_scope', 'scope: names with one space between them');
  }
  const wanted = [...new Set(text.split(' '))];
  const missing = wanted.filter((scope) => !covers(held, scope));
  if (missing.length === 0) return wanted;
  throw new OAuthError('invalid_scope', `scope: ${missing.join(' ')} was not given to this client`);
}

function invalidGrant(): OAuthError {
  const text = 'refresh_token: is not valid for this client, was used before, or its time is over';
  return new OAuthError('invalid_grant', text);
}
