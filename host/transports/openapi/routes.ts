/**
 * GET /openapi.json. The document is made when it is asked for and the plugins that serve are others than
 * before; between two changes everyone gets the same bytes.
 */
import { createHash } from 'node:crypto';
import type { Manifest } from '@noa/sdk/host';
import type { FastifyInstance } from 'fastify';
import type { MountedRoute } from '../contract.ts';
import { resource } from '../resource.ts';
import { openApi } from './document.ts';

export interface ReferenceOptions {
  readonly version: string;
  /** Of the plugins that serve, by name; one that is the same is the same object. */
  readonly manifests: () => readonly Manifest[];
  /** A credential is asked for. */
  readonly guardReference: boolean;
}

export function registerReference(
  scope: FastifyInstance,
  routes: readonly MountedRoute[],
  options: ReferenceOptions,
): void {
  const documents = new Documents(routes, options);
  resource(scope, '/openapi.json', {
    GET: {
      summary: 'Read this document',
      description: 'The API of this host in machine form, OpenAPI 3.1; `/docs` shows it to people.',
      tag: 'Reference',
      ...(options.guardReference ? {} : { open: true as const }),
      answers: { 200: { type: 'object', description: 'An OpenAPI document.' }, 304: null },
      run: (request, reply) => {
        const { text, etag } = documents.present();
        // What plugins serve may change at any time, so a copy is used only after asking.
        void reply.headers({ etag, 'cache-control': 'no-cache' });
        if (request.headers['if-none-match'] === etag) return reply.code(304).send();
        return reply.header('content-type', 'application/json; charset=utf-8').send(text);
      },
    },
  });
}

interface Document {
  readonly manifests: readonly Manifest[];
  readonly text: string;
  readonly etag: string;
}

class Documents {
  readonly #routes: readonly MountedRoute[];
  readonly #options: ReferenceOptions;
  #last: Document | undefined;

  constructor(routes: readonly MountedRoute[], options: ReferenceOptions) {
    this.#routes = routes;
    this.#options = options;
  }

  present(): Document {
    const { version, ...options } = this.#options;
    const manifests = options.manifests();
    if (this.#last === undefined || !isSame(this.#last.manifests, manifests)) {
      const text = JSON.stringify(openApi({ version, routes: this.#routes, manifests }));
      const hash = createHash('sha256').update(text).digest('base64url');
      this.#last = { manifests, text, etag: `"${hash}"` };
    }
    return this.#last;
  }
}

/** A manifest is never changed: another version brings another one. */
function isSame(a: readonly Manifest[], b: readonly Manifest[]): boolean {
  return a.length === b.length && a.every((manifest, index) => manifest === b[index]);
}
