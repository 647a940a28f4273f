/** How callers authenticate, as the document says it. */
import type { Contract, MountedRoute } from '../contract.ts';
import type { Node } from './paths.ts';

/** Where clients get access tokens (RFC 6749 section 4.4), on hosts that give any. */
const TOKEN_URL = '/v1/auth/token';

const CREDENTIALS = {
  bearer: {
    type: 'http',
    scheme: 'bearer',
    bearerFormat: 'JWT or opaque',
    description: 'An access token, or the bootstrap token.',
  },
  apiKey: { type: 'apiKey', in: 'header', name: 'x-api-key', description: 'An API key.' },
};

const ANY: readonly Node[] = Object.keys(CREDENTIALS).map((name) => ({ [name]: [] }));

export class Security {
  readonly schemes: Node;
  /** Of operations that say nothing of their own. */
  readonly common: readonly Node[];
  readonly #givesTokens: boolean;

  constructor(routes: readonly MountedRoute[]) {
    this.#givesTokens = routes.some(({ url }) => url === TOKEN_URL);
    const flows = { clientCredentials: { tokenUrl: TOKEN_URL, scopes: scopesOf(routes) } };
    this.schemes = this.#givesTokens
      ? { ...CREDENTIALS, oauth2: { type: 'oauth2', flows } }
      : CREDENTIALS;
    this.common = this.#givesTokens ? [...ANY, { oauth2: [] }] : ANY;
  }

  /** What an operation says of it. */
  of({ open, scope }: Contract): Node {
    if (open) return { security: [] };
    if (scope === undefined) return {};
    const security = this.#givesTokens ? { security: [...ANY, { oauth2: [scope] }] } : {};
    return { ...security, 'x-noa-scope': scope };
  }
}

/** Each with the operations that need it. */
function scopesOf(routes: readonly MountedRoute[]): { [scope: string]: string } {
  const scopes = Map.groupBy(routes, ({ contract }) => contract?.scope);
  const named = [...scopes].flatMap(([scope, those]) => {
    const operations = those.map(({ method, url }) => `${method} ${url}`).join(', ');
    return scope === undefined ? [] : [[scope, operations] as const];
  });
  return Object.fromEntries(named.sort(([a], [b]) => (a < b ? -1 : 1)));
}
