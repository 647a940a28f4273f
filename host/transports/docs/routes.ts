/**
 * GET /docs: the reference as a page, Swagger UI over this host's own /openapi.json. Invariants: all that
 * the page loads comes from this host; no script or style stands in a page; and what a browser keeps for a
 * year has a name that changes with what it holds.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { resource } from '../resource.ts';

/** Where Swagger UI's files are. */
const SWAGGER_UI = new URL('./', import.meta.resolve('swagger-ui-dist/package.json'));
const OWN = new URL('./', import.meta.url);

const ASSETS: { readonly [name: string]: { readonly from: URL; readonly type: string } } = {
  'swagger-ui-bundle.js': { from: SWAGGER_UI, type: 'text/javascript; charset=utf-8' },
  'swagger-ui.css': { from: SWAGGER_UI, type: 'text/css; charset=utf-8' },
  'page.js': { from: OWN, type: 'text/javascript; charset=utf-8' },
  'page.css': { from: OWN, type: 'text/css; charset=utf-8' },
  'icon.svg': { from: OWN, type: 'image/svg+xml' },
};

const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:", // Swagger UI's icons
  "connect-src 'self'",
  "form-action 'none'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ');

const HEADERS = {
  'content-security-policy': POLICY,
  'cross-origin-opener-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
};

const YEAR = 'public, max-age=31536000, immutable';

/** No credential is asked for: the page holds nothing of this host, and what it reads asks for its own. */
export function registerDocs(scope: FastifyInstance): void {
  const assets = `docs/assets/${fingerprint()}`;
  const page = readFileSync(new URL('page.html', OWN), 'utf8').replaceAll('{assets}', assets);
  resource(scope, '/docs', {
    GET: {
      summary: 'Browse this reference',
      tag: 'Reference',
      open: true,
      answers: { 200: { type: 'string' } },
      mediaType: 'text/html',
      run: (_request, reply) =>
        reply
          .headers({ ...HEADERS, 'cache-control': 'no-cache' })
          .type('text/html; charset=utf-8')
          .send(page),
    },
  });
  for (const [name, { from, type }] of Object.entries(ASSETS)) {
    const load = once(() => packed(new URL(name, from)));
    resource(scope, `/${assets}/${name}`, {
      GET: {
        undocumented: true,
        run: async (request, reply) => answer(request, reply.type(type), await load()),
      },
    });
  }
}

/** Of everything that the assets hold. */
function fingerprint(): string {
  const hash = createHash('sha256');
  hash.update(readFileSync(new URL('package.json', SWAGGER_UI))); // its version stands for its files
  for (const [name, { from }] of Object.entries(ASSETS)) {
    if (from === OWN) hash.update(readFileSync(new URL(name, OWN)));
  }
  return hash.digest('hex').slice(0, 16);
}

interface Packed {
  readonly plain: Buffer;
  readonly gzip: Buffer;
}

async function packed(file: URL): Promise<Packed> {
  const plain = await readFile(file);
  return { plain, gzip: await promisify(gzip)(plain) };
}

/** Runs it at the first call that succeeds, and keeps the result. */
function once<T>(run: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined;
  return () => {
    result ??= run().catch((error: unknown) => {
      result = undefined;
      throw error;
    });
    return result;
  };
}

function answer(request: FastifyRequest, reply: FastifyReply, content: Packed): FastifyReply {
  const zipped = /\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))/.test(
    request.headers['accept-encoding'] ?? '',
  );
  if (zipped) void reply.header('content-encoding', 'gzip');
  return reply
    .headers({ ...HEADERS, 'cache-control': YEAR, vary: 'accept-encoding' })
    .send(zipped ? content.gzip : content.plain);
}
