/** What identities are told and answer, as JSON Schemas. */
import { type JsonSchema, PLAIN_TEXT } from '@noa/sdk/host';
import type { IdentityView } from '../gateway/identity/directory.ts';
import { SCOPE } from '../gateway/identity/rights.ts';
import type { SigningKeyView } from '../gateway/identity/signing-keys.ts';
import type { ApiKeyView, Role } from '../gateway/identity/store.ts';
import type { TokenAnswer } from '../gateway/identity/token-endpoint.ts';
import { LEVELS } from '../gateway/limits.ts';
import type { Principal } from '../kernel/chain.ts';
import { count, flag, list, object, oneOf, orNull, page, text, time } from './answer-schema.ts';
import { PAGE_PARAMETERS } from './paging.ts';

const NAME = '[a-z][a-z0-9._-]{0,63}';
const NAME_RULE = 'lower-case letters, digits and . _ -, a letter first, at most 64';
const name: JsonSchema = { type: 'string', pattern: `^${NAME}$`, description: NAME_RULE };
const description: JsonSchema = { type: 'string', maxLength: 500, pattern: PLAIN_TEXT };
const scopes: JsonSchema = {
  type: 'array',
  maxItems: 64,
  uniqueItems: true,
  items: {
    type: 'string',
    pattern: `^${SCOPE}$`,
    description: 'a scope: lower-case letters, digits and : . _ -, a letter first, at most 64',
  },
};
const roles: JsonSchema = { type: 'array', maxItems: 16, uniqueItems: true, items: name };
const level: JsonSchema = { type: ['string', 'null'], enum: [...LEVELS, null] };
const disabled: JsonSchema = { type: 'boolean' };
/** What may be in a subject: printable ASCII. */
const external: JsonSchema = {
  type: ['string', 'null'],
  pattern: '^[\\x21-\\x7e]{1,255}$',
  description: 'printable ASCII without spaces, at most 255',
};

const body = (properties: { [name: string]: JsonSchema }, required: string[] = []): JsonSchema => ({
  type: 'object',
  additionalProperties: false,
  properties,
  required,
});

const ofClient = { description, roles, scopes, level, disabled };
const ofUser = { ...ofClient, issuer: external, externalSubject: external };

export const NEW_CLIENT = body({ id: name, ...ofClient }, ['id']);
export const CLIENT = body(ofClient);
export const NEW_USER = body({ id: name, ...ofUser }, ['id']);
export const USER = body(ofUser);
export const NEW_ROLE = body({ name, description, scopes }, ['name', 'scopes']);
export const ROLE = body({ description, scopes });
const owner: JsonSchema = {
  type: 'string',
  pattern: `^(user|client):${NAME}$`,
  description: 'user:<id> or client:<id>',
};
export const NEW_KEY = body(
  {
    owner,
    description,
    scopes,
    expiresAt: {
      type: 'string',
      pattern: '^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,3})?Z$',
      description: 'a time in UTC, such as 2030-01-31T00:00:00Z',
    },
  },
  ['owner'],
);
export const KEYS_QUERY = body({ ...PAGE_PARAMETERS, owner });

export const CLIENT_PATH = { id: { type: 'string', description: 'Id of the client.' } };
export const USER_PATH = { id: { type: 'string', description: 'Id of the user.' } };
export const ROLE_PATH = { name: { type: 'string', description: 'Name of the role.' } };
export const KEY_PATH = { id: { type: 'string', description: 'Id of the key.' } };

/** Parameters that are not known are ignored (RFC 6749 section 3.2). */
const form = (properties: { [name: string]: JsonSchema }): JsonSchema => ({
  type: 'object',
  properties: { client_id: parameter(), client_secret: parameter(), ...properties },
});
const parameter = (words?: string): JsonSchema => ({
  type: 'string',
  maxLength: 8192,
  ...(words === undefined ? {} : { description: words }),
});

export const TOKEN_FORM = form({
  grant_type: parameter('`client_credentials` or `refresh_token`.'),
  refresh_token: parameter('The one that came last.'),
  scope: parameter('With spaces between them; all that there are when absent.'),
});
export const REVOKE_FORM = form({
  token: parameter('An access or a refresh token.'),
  token_type_hint: parameter('Is not needed.'),
});

const subject = text('`user:<id>` or `client:<id>`.');
const scopesShown = list(text(), 'What it may do, beside what its roles give.');
const rolesShown = list(text());
const ofIdentity = {
  id: text(),
  subject,
  description: text(),
  roles: rolesShown,
  scopes: scopesShown,
  level: orNull(oneOf(LEVELS, 'Of its rate limit; null counts as L5.')),
  disabled: flag('Its credentials are refused.'),
  issuer: orNull(text('Name of the issuer whose tokens may stand for this user.')),
  externalSubject: orNull(text('What that issuer calls the user.')),
  createdAt: time(),
  updatedAt: time(),
};

export const IDENTITY_VIEW = object<IdentityView>(ofIdentity, { title: 'Identity' });
export const IDENTITY_DETAIL = object<IdentityView & { effective: readonly string[] }>(
  { ...ofIdentity, effective: list(text(), 'What it may do, roles included.') },
  { title: 'IdentityDetail' },
);
export const CLIENT_SECRET = object<IdentityView & { secret: string }>(
  { ...ofIdentity, secret: text('Shown this once.') },
  { title: 'ClientWithSecret' },
);
export const CLIENTS = page('clients', IDENTITY_VIEW);
export const USERS = page('users', IDENTITY_VIEW);

export const ROLE_VIEW = object<Role>(
  {
    name: text(),
    description: text(),
    scopes: list(text()),
    createdAt: time(),
    updatedAt: time(),
  },
  { title: 'Role' },
);
export const ROLES = page('roles', ROLE_VIEW);

const ofKey = {
  id: text(),
  subject,
  description: text(),
  scopes: list(text(), 'The most that it has; its owner may have less by now.'),
  createdAt: time(),
  expiresAt: orNull(time()),
};
export const KEY_VIEW = object<ApiKeyView>(ofKey, { title: 'ApiKey' });
export const KEY_MADE = object<ApiKeyView & { key: string }>(
  { ...ofKey, key: text('The credential, shown this once.') },
  { title: 'ApiKeyWithSecret' },
);
export const KEYS = page('keys', KEY_VIEW);

export const SIGNING_KEY = object<SigningKeyView>(
  {
    kid: text(),
    createdAt: time(),
    retiredAt: orNull(time('When set, the key signs no more.')),
  },
  { title: 'SigningKey' },
);
export const SIGNING_KEYS = page('keys', SIGNING_KEY);

export const SELF = object<
  Required<Pick<Principal, 'subject' | 'scopes'>> & { roles: readonly string[]; level: string }
>(
  { subject: text(), scopes: list(text()), roles: list(text()), level: oneOf(LEVELS) },
  { title: 'Self' },
);

export const TOKEN = object<TokenAnswer>(
  {
    access_token: text('A JWT (RFC 9068).'),
    token_type: oneOf(['Bearer']),
    expires_in: count('Seconds.'),
    refresh_token: text('Good once.'),
    scope: text(),
  },
  { title: 'Token' },
);
export const OAUTH_ERROR = object<{ error: string; error_description: string }>(
  { error: text('A code of RFC 6749.'), error_description: text() },
  { title: 'OAuthError' },
);
export const JWKS = object<{ keys: readonly object[] }>(
  { keys: list({ type: 'object' }) },
  { title: 'KeySet' },
);
