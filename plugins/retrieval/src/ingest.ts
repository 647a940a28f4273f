/**
 * What is sent as a document. Invariants: what is answered is kept, and is embedded later if the host is killed
 * before; the same content again changes nothing.
 */
import { NoaError } from '@noa/sdk';
import { type Collection, collectionWith, type Ctx, findCollection } from './context.ts';
import { documentOf, viewOf } from './documents.ts';
import type { ParsedDocument } from './documents/document.ts';
import { parse } from './documents/parse.ts';
import { embedAll } from './embed.ts';
import { cut, keep, type Target } from './keep.ts';
import type { AddDocumentInput, AddDocumentOutput } from './noa.gen.ts';
import { assertPlain } from './plain-text.ts';

/** Chunks of one document. */
const MAX_CHUNKS = 10_000;
/** A document of more chunks is embedded after the answer. */
const MAX_AT_ONCE = 2048;
/** For how long whoever adds a document waits for the index that is built. */
const NEXT_MS = 2000;
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
  const document = { id, hash, title, source, mediaType, metadata, parsed };
  let targets: readonly [Target, ...Target[]];
  let versions: readonly number[] | undefined;
  do {
    targets = await targetsOf(context, await findCollection(context, name), parsed);
    assertFits(targets[0].chunks.length);
    versions = await keep(context, document, targets);
    // Again when another index took the place of one.
  } while (versions === undefined);
  if (targets[0].chunks.length <= MAX_AT_ONCE) await embedInto(context, id, targets, versions);
  const there = await documentOf(context, await findCollection(context, name), id);
  if (there !== undefined) return viewOf(there);
  throw new NoaError('CONFLICT', `document ${id} was deleted meanwhile`);
}

/**
 * The index that answers and the one that is built, where there is one: with every document in both the one can
 * take the other's place at any time. What cannot be cut for the one that is built, or is large, is copied later.
 */
async function targetsOf(
  context: Ctx,
  collection: Collection,
  parsed: ParsedDocument,
): Promise<readonly [Target, ...Target[]]> {
  const live = { collection, chunks: await cut(context, collection, parsed) };
  const { building_id } = collection;
  const next = building_id === null ? undefined : await collectionWith(context, building_id);
  if (next === undefined || live.chunks.length > MAX_AT_ONCE) return [live];
  const chunks = await cut(context, next, parsed).catch(unlessRefused);
  if (chunks === undefined || chunks.length > MAX_AT_ONCE) return [live];
  return [live, { collection: next, chunks }];
}

/** That what is built has it first keeps what answers from being ahead of it. */
async function embedInto(
  context: Ctx,
  id: string,
  targets: readonly Target[],
  versions: readonly number[],
): Promise<void> {
  const [live, next] = targets.map(({ collection }, i) => ({
    collection,
    version: versions[i] ?? 0,
  }));
  if (next) {
    // What is in its way will be found again, and told, by what goes on with the index.
    const embedded = embedAll(context, next.collection, id, next.version).catch(unlessRefused);
    await Promise.race([embedded, new Promise((resolve) => setTimeout(resolve, NEXT_MS))]);
    await context.db.execute(
      "update documents set leased_until = now() where seq = $1 and state = 'embedding'",
      [next.version],
    );
  }
  if (live) await embedAll(context, live.collection, id, live.version);
}

function unlessRefused(error: unknown): undefined {
  if (!(error instanceof NoaError)) throw error;
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
