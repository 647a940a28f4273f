/** Puts together all that knows who calls: the one place where the parts of identity meet. */
import type { Audit } from '../../kernel/audit.ts';
import type { CallerTokens } from '../../kernel/caller-tokens.ts';
import { Seal } from '../../kernel/seal.ts';
import type { StoreTx } from '../../kernel/store.ts';
import { AccessTokens } from './access-tokens.ts';
import { ApiKeys } from './api-keys.ts';
import { Authenticator } from './authenticator.ts';
import { Changes } from './changes.ts';
import { RefreshTokens } from './credentials.ts';
import { Directory } from './directory.ts';
import { ExternalIssuer } from './external.ts';
import { IdentityLookup } from './lookup.ts';
import { Roles } from './roles.ts';
import { SigningKeys } from './signing-keys.ts';
import type { IdentityStore } from './store.ts';
import { TokenEndpoint } from './token-endpoint.ts';
import type { IssuerSettings } from './settings.ts';

const SWEEP_MS = 600_000;
const ISSUER = 'urn:noa';

export interface IdentityOptions {
  readonly store: IdentityStore;
  readonly audit: Pick<Audit<StoreTx>, 'change' | 'record'>;
  readonly callers: Pick<CallerTokens, 'find'>;
  readonly rootKey: Uint8Array;
  /** The operator's way in. */
  readonly bootstrapToken: string;
  /** Of the configuration. */
  readonly auth: {
    readonly issuer: string | undefined;
    readonly access_token_life_seconds: number;
    readonly refresh_token_life_seconds: number;
    readonly issuers: readonly IssuerSettings[] | undefined;
  };
  /** Of the state that this host follows. */
  readonly revision: () => number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly newId: () => string;
  readonly onError: (message: string, error: unknown) => void;
}

export interface IdentityService extends Disposable {
  readonly authenticator: Authenticator;
  readonly directory: Directory;
  readonly roles: Roles;
  readonly apiKeys: ApiKeys;
  readonly signingKeys: SigningKeys;
  readonly endpoint: TokenEndpoint;
}

export function createIdentity(options: IdentityOptions): IdentityService {
  const { store, auth, callers, now, newId, rootKey, onError } = options;
  const changes = new Changes(options);
  const seal = new Seal(rootKey);
  const signingKeys = new SigningKeys({ store, changes, seal, now, newId });
  const issuer = auth.issuer ?? ISSUER;
  const tokens = new AccessTokens({ keys: signingKeys, issuer, now, newId });
  const externals = (auth.issuers ?? []).map((one) => new ExternalIssuer(one, now));
  const lookup = new IdentityLookup({ store, changes, tokens, issuer, externals, callers, now });
  const sweep = (): void => {
    store
      .sweepSessions(changes.at())
      .catch((error: unknown) => onError('old sessions cannot be deleted now', error));
  };
  const timer = setInterval(sweep, SWEEP_MS).unref();
  return {
    authenticator: new Authenticator({
      credentials: [
        { token: options.bootstrapToken, principal: { subject: 'bootstrap', scopes: ['admin'] } },
      ],
      lookup,
      now,
    }),
    directory: new Directory({ store, changes }),
    roles: new Roles({ store, changes }),
    apiKeys: new ApiKeys({ store, changes }),
    signingKeys,
    endpoint: new TokenEndpoint({
      store,
      changes,
      tokens,
      refreshTokens: new RefreshTokens(rootKey),
      accessLifeSeconds: auth.access_token_life_seconds,
      refreshLifeSeconds: auth.refresh_token_life_seconds,
      now,
    }),
    [Symbol.dispose]: () => clearInterval(timer),
  };
}
