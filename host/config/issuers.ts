/** `auth.issuers`: whose access tokens this host takes beside its own. */
import type { JsonSchema } from '@noa/sdk/host';
import type { IssuerSettings } from '../gateway/identity/settings.ts';
import { tables } from './tables.ts';

const text = (maxLength: number): JsonSchema => ({ type: 'string', minLength: 1, maxLength });
const names: JsonSchema = {
  type: 'array',
  maxItems: 64,
  items: { type: 'string', pattern: '^[a-z][a-z0-9:._-]{0,63}$' },
  default: [],
};
/** Cleartext would let whoever is on the way name keys of their own. */
const address: JsonSchema = {
  type: 'string',
  maxLength: 512,
  pattern:
    '^(https://[^/?#@\\s]+|http://(127\\.0\\.0\\.1|localhost|\\[::1\\])(:[0-9]+)?)(/[^?#\\s]*)?$',
  description: 'an https URL without user, query and fragment; http for this machine alone',
};
/** Asymmetric ones alone: with a shared key whoever checks tokens could make them. */
const ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
];

const MAPPING: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['value'],
  properties: { value: text(256), scopes: names, roles: names },
};

const ISSUER: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['name', 'issuer', 'audience'],
  properties: {
    // The names before the colon that subjects of this host's own have.
    name: {
      type: 'string',
      pattern: '^[a-z][a-z0-9-]{0,31}$',
      not: { enum: ['client', 'user', 'key', 'plugin', 'bootstrap'] },
    },
    issuer: address,
    audience: text(256),
    jwks_url: address,
    algorithms: {
      type: 'array',
      minItems: 1,
      maxItems: 10,
      items: { type: 'string', enum: ALGORITHMS },
      default: ['RS256'],
    },
    claim: { ...text(128), default: 'scope' },
    map: { type: 'array', maxItems: 256, items: MAPPING, default: [] },
    level: { type: 'string', enum: ['L1', 'L2', 'L3', 'L4', 'L5'], default: 'L5' },
  },
};

export const issuers = tables<IssuerSettings>(
  ISSUER,
  {
    description:
      'Issuers whose access tokens are taken: `name`, `issuer` (exactly as `iss` has it), `audience`; if wanted `jwks_url` (else found by OpenID Connect Discovery), `algorithms` (default RS256), `claim` (default `scope`: which claim tells rights), `map` (`value` of the claim, with the `scopes` and `roles` that it gives; what it does not name gives nothing), `level` (default L5).',
  },
  ['name', 'issuer'],
);
