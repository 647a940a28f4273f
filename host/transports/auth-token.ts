/**
 * Where clients get and give back tokens (RFC 6749, RFC 7009), and everybody the keys that verify them
 * (RFC 7517). Invariant: nothing here asks for a bearer credential, and no answer with a token or about one
 * is kept by any cache.
 */
import { hash } from 'node:crypto';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { NoaError } from '@noa/sdk/host';
import type { Gateway } from '../gateway/gateway.ts';
import type { IdentityService } from '../gateway/identity/identity.ts';
import { asOAuthError, OAuthError } from '../gateway/identity/oauth-error.ts';
import type { TokenRequest } from '../gateway/identity/token-endpoint.ts';
import { JWKS, OAUTH_ERROR, REVOKE_FORM, TOKEN, TOKEN_FORM } from './auth-schemas.ts';
import { takeForms, takeJson } from './body.ts';
import { arrivalOf } from './identity.ts';
import { asNoaError } from './problem.ts';
import { resource } from './resource.ts';

const MAX_BODY = { bytes: 32 << 10, name: 'of the token endpoint' };
const JWKS_SECONDS = 60;
const BASIC = /^Basic +([A-Za-z0-9+/_-]+={0,2}) *$/i;
const FAILURES = {
  400: OAUTH_ERROR,
  401: OAUTH_ERROR,
  413: OAUTH_ERROR,
  429: OAUTH_ERROR,
  500: OAUTH_ERROR,
  503: OAUTH_ERROR,
};

export interface TokenRoutesOptions {
  readonly gateway: Gateway;
  readonly identity: Pick<IdentityService, 'endpoint' | 'signingKeys'>;
  readonly onError: (message: string, error: unknown) => void;
}

export function registerTokens(scope: FastifyInstance, options: TokenRoutesOptions): void {
  const { signingKeys, endpoint } = options.identity;
  takeJson(scope, () => MAX_BODY);
  takeForms(scope, MAX_BODY);
  scope.setErrorHandler((error, request, reply) => {
    if (request.method !== 'POST') throw error;
    fail(error, request, reply, options);
  });
  const asked = <T>(request: FastifyRequest, work: (given: TokenRequest) => Promise<T>) =>
    work(read(request)).catch((error: unknown) => {
      const isRefusal = error instanceof OAuthError && error.error === 'invalid_client';
      const isFlood = error instanceof NoaError && error.code === 'RATE_LIMITED';
      if (isRefusal || isFlood) options.gateway.noteStranger(arrivalOf(request), error);
      throw error;
    });
  resource(scope, '/v1/auth/token', {
    POST: {
      summary: 'Get an access token',
      description:
        'RFC 6749, as `application/x-www-form-urlencoded` or JSON; the client shows its id and secret by HTTP Basic or in the body. A refresh token is good once: one that comes twice ends all tokens of its family.',
      tag: 'Authentication',
      open: true,
      body: TOKEN_FORM,
      forms: true,
      answers: { 200: TOKEN, ...FAILURES },
      run: async (request, reply) => {
        const answer = await asked(request, (given) => endpoint.grant(given));
        return secretly(reply).send(answer);
      },
    },
  });
  resource(scope, '/v1/auth/revoke', {
    POST: {
      summary: 'Give a token back',
      description:
        'RFC 7009: ends the token with its whole family. 200 also for a token that is not known.',
      tag: 'Authentication',
      open: true,
      body: REVOKE_FORM,
      forms: true,
      answers: { 200: null, ...FAILURES },
      run: async (request, reply) => {
        await asked(request, (given) => endpoint.revoke(given));
        return secretly(reply).send();
      },
    },
  });
  resource(scope, '/.well-known/jwks.json', {
    GET: {
      summary: 'Read the keys that verify access tokens',
      description: 'RFC 7517. A key stays until all that it signed has expired.',
      tag: 'Authentication',
      open: true,
      answers: { 200: JWKS, 304: null },
      run: async (request, reply) => {
        const keys = await signingKeys.jwks();
        const etag = `"${hash('sha256', JSON.stringify(keys), 'base64url')}"`;
        void reply.header('cache-control', `public, max-age=${JWKS_SECONDS}`).header('etag', etag);
        const known = (request.headers['if-none-match'] ?? '').split(/\s*,\s*/);
        return known.includes(etag) || known.includes(`W/${etag}`)
          ? reply.code(304).send()
          : reply.send(keys);
      },
    },
  });
}

function secretly(reply: FastifyReply): FastifyReply {
  return reply.header('cache-control', 'no-store').header('pragma', 'no-cache');
}

function fail(
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  { onError }: TokenRoutesOptions,
): void {
  const shown = asOAuthError(error instanceof OAuthError ? error : asNoaError(error, request));
  if (shown.status >= 500) onError(`request ${request.exchange.id}: ${shown.message}`, shown.cause);
  if (shown.retryAfterMs !== undefined) {
    void reply.header('retry-after', String(Math.max(1, Math.ceil(shown.retryAfterMs / 1000))));
  }
  if (shown.status === 401) void reply.header('www-authenticate', 'Basic realm="noa"');
  void secretly(reply).code(shown.status).send(shown.toBody());
}

function read(request: FastifyRequest): TokenRequest {
  const body = request.body as { readonly [name: string]: unknown };
  const parameters = new Map<string, string>();
  for (const [name, value] of Object.entries(body)) {
    // Without a value it counts as left out (RFC 6749 section 3.2).
    if (typeof value === 'string' && value !== '') parameters.set(name, value);
  }
  const basic = readBasic(request.raw.headers.authorization);
  const inBody = { id: parameters.get('client_id'), secret: parameters.get('client_secret') };
  if (basic !== undefined && inBody.secret !== undefined) {
    throw new OAuthError('invalid_request', 'the client shows its secret in two places');
  }
  if (basic !== undefined && inBody.id !== undefined && inBody.id !== basic.id) {
    throw new OAuthError('invalid_request', 'client_id: is not that of the authorization header');
  }
  return {
    clientId: basic?.id ?? inBody.id,
    clientSecret: basic?.secret ?? inBody.secret,
    parameters,
    remoteAddress: request.raw.socket.remoteAddress,
  };
}

/** RFC 6749 section 2.3.1: both parts are form-encoded inside RFC 7617's form. */
function readBasic(authorization: string | undefined): { id: string; secret: string } | undefined {
  // Another scheme is no client's authentication.
  if (authorization === undefined || !/^Basic( |$)/i.test(authorization)) return undefined;
  const [, encoded] = BASIC.exec(authorization) ?? [];
  const text = encoded === undefined ? '' : Buffer.from(encoded, 'base64').toString();
  const colon = text.indexOf(':');
  if (colon < 0) {
    throw new OAuthError('invalid_client', 'authorization: Basic with the id and the secret');
  }
  try {
    const part = (given: string) => decodeURIComponent(given.replaceAll('+', ' '));
    return { id: part(text.slice(0, colon)), secret: part(text.slice(colon + 1)) };
  } catch (cause) {
    const words = 'authorization: the parts of Basic are form-encoded';
    throw new OAuthError('invalid_client', words, { cause });
  }
}
