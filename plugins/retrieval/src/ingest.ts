/**
 * What is sent as a document. Invariants: what is answered is kept, and is embedded later if the host is killed
 * before; the same content again changes nothing.
 */
import { NoaError } from '@noa/sdk';
import { type Ctx, findCollection } from './context.ts';
import { documentOf, viewOf } from './documents.ts';
import { parse } from './documents/parse.ts';
import { embedAll } from './embed.ts';
import { cut, keep } from './keep.ts';
import type { AddDocumentInput, AddDocumentOutput } from './noa.gen.ts';
import { assertPlain } from './plain-text.ts';

/** Chunks of one document. */
const MAX_CHUNKS = 10_000;
/** A document of more chunks is embedded after the answer. */
const MAX_AT_ONCE = 2048;
/** Of a document, as JSON: each of its points carries them. */
const MAX_METADATA_BYTES = 32_768;

export async function addDocument(
  input: AddDocumentInput,
  context: Ctx,
): Promise<AddDocumentOutput> {
  const { collection: name, source = null, metadata = {} } = input;
  const found = await findCollection(context, name);
  assertNamed(input);
  const { bytes, mediaType } = contentOf(input);
  const hash = await digest(bytes, mediaType, input);
  const id = input.id ?? `d-${hash.slice(0, 32)}`;
  const known = await documentOf(context, found, id);
  if (known?.['hash'] === hash && known['state'] !== 'failed') return viewOf(known);
  const parsed = await parse(bytes, mediaType);
  const title = input.title ?? parsed.title ?? null;
  let version: number | undefined;
  // Again when another index takes the place of the one that it was cut for.
  while (version === undefined) {
    const collection = await findCollection(context, name);
    const chunks = await cut(context, collection, parsed);
    assertFits(chunks.length);
    const document = { id, hash, title, source, mediaType, metadata, parsed, chunks };
    version = await keep(context, collection, document);
    if (version !== undefined && chunks.length <= MAX_AT_ONCE) {
      await embedAll(context, collection, id, version);
    }
  }
  const there = await documentOf(context, await findCollection(context, name), id);
  if (there !== undefined) return viewOf(there);
  throw new NoaError('CONFLICT', `document ${id} was deleted meanwhile`);
}

/** Throws INVALID_ARGUMENT. */
function assertFits(chunks: number): void {
  if (chunks === 0) throw new NoaError('INVALID_ARGUMENT', 'the document has no text in it');
  if (chunks > MAX_CHUNKS) {
    const text = `the document has ${chunks} chunks, over ${MAX_CHUNKS}: send it in parts`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
}

/** Throws INVALID_ARGUMENT for what could be kept and not be found, or not be deleted, again. */
function assertNamed({ id, title, source, metadata }: AddDocumentInput): void {
  for (const [name, value] of Object.entries({ id, title, source, metadata })) {
    assertPlain(value, name);
  }
  if (id === '.' || id === '..') {
    throw new NoaError('INVALID_ARGUMENT', 'id: . and .. are no ids, for no path can name them');
  }
  const bytes = Buffer.byteLength(JSON.stringify(metadata ?? {}));
  if (bytes > MAX_METADATA_BYTES) {
    const text = `metadata: has ${bytes} bytes as JSON, over ${MAX_METADATA_BYTES}`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
}

function contentOf(input: AddDocumentInput): { bytes: Uint8Array; mediaType: string } {
  const { text, markdown, html, content } = input;
  const given = [text, markdown, html, content].filter((each) => each !== undefined);
  if (given.length !== 1) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      'send one of text, markdown and html, or the bytes of a file',
    );
  }
  if (content !== undefined) {
    const { mediaType, charset, base64 } = content;
    if (charset !== undefined && !['utf-8', 'utf8', 'us-ascii'].includes(charset)) {
      const words = `content-type: the charset ${charset} is not taken; send UTF-8`;
      throw new NoaError('INVALID_ARGUMENT', words);
    }
    if (base64.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(base64)) {
      throw new NoaError('INVALID_ARGUMENT', 'content/base64: is no base64 (RFC 4648, section 4)');
    }
    return { bytes: Buffer.from(base64, 'base64'), mediaType };
  }
  if (html !== undefined) return { bytes: Buffer.from(html), mediaType: 'text/html' };
  return markdown === undefined
    ? { bytes: Buffer.from(text ?? ''), mediaType: 'text/plain' }
    : { bytes: Buffer.from(markdown), mediaType: 'text/markdown' };
}

/** Of what was sent: how it is cut and embedded is of the collection. */
async function digest(
  bytes: Uint8Array,
  mediaType: string,
  { collection, title, source, metadata }: AddDocumentInput,
): Promise<string> {
  const about = [mediaType, title, source, metadata, collection];
  const whole = Buffer.concat([Buffer.from(JSON.stringify(about)), Buffer.from([0]), bytes]);
  return Buffer.from(await crypto.subtle.digest('SHA-256', whole)).toString('hex');
}
