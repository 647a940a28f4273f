/**
 * How well does `retrieval` find? The documents of `@sap-ux/fiori-docs-embeddings` (778 pieces of technical
 * documentation, Apache-2.0), the first 2,000 characters of each, cut by the plugin's defaults and embedded by
 * `use-lite` (or the model that is named as an argument); each title of more than 12 characters is asked for, and
 * the mean reciprocal rank (MRR) of its document told: by meaning, by words, by both, as the plugin ranks. Aim:
 * both at .62 or more, and above each alone. A minute.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Engine } from '../../capabilities/inference/engine/engine.ts';
import { ModelRegistry } from '../../capabilities/inference/models/registry.ts';
import { chunk } from '../../plugins/retrieval/src/chunks.ts';
import { parseMarkdown } from '../../plugins/retrieval/src/documents/plain.ts';
import {
  chunkVector,
  fuse,
  queryTerms,
  queryVector,
  type Ranked,
} from '../../plugins/retrieval/src/lexical.ts';

const [MODEL = 'use-lite'] = process.argv.slice(2);
const SIZE = { tokens: 120, overlap: 20 };
const MAX_CHARACTERS = 2000;
/** Of each ranking, as a search of ten hits takes. */
const CANDIDATES = 200;
/** Of one call: to embed, and to count their tokens. */
const TEXTS = 256;
const BATCH = 64;
const print = (text: string): void => void process.stdout.write(`${text}\n`);

const alive = setInterval(() => undefined, 1000); // workers alone keep no process alive
const cache = await mkdtemp(join(tmpdir(), 'noa-bench-models-'));
const engine = new Engine({
  registry: new ModelRegistry({ cache, paths: [] }),
  maxQueued: 4096,
  limitMs: 60_000,
  memoryBytes: 1 << 30,
  device: 'cpu',
  untrusted: [],
  observeBatch: () => undefined,
  onNotice: print,
  now: Date.now,
  workers: 2,
  maxBatch: 32,
});
const call = () => ({
  plugin: 'bench',
  signal: AbortSignal.timeout(60_000),
  deadline: Date.now() + 60_000,
});

async function embed(texts: readonly string[]): Promise<Float32Array[]> {
  const rows: Float32Array[] = [];
  for (let at = 0; at < texts.length; at += TEXTS) {
    const batch = texts.slice(at, at + TEXTS);
    const request = { model: MODEL, texts: batch, truncate: true };
    const { vectors, dimensions } = await engine.embed(request, call());
    rows.push(...batch.map((_, i) => vectors.subarray(i * dimensions, (i + 1) * dimensions)));
  }
  return rows;
}

async function countTokens(texts: string[]): Promise<number[]> {
  const counts: number[] = [];
  for (let at = 0; at < texts.length; at += BATCH) {
    const tokens = await engine.tokenize(MODEL, texts.slice(at, at + BATCH), call());
    counts.push(...tokens.map(({ length }) => length));
  }
  return counts;
}

interface Record {
  readonly title?: string;
  readonly content: string;
}

const source = import.meta.resolve('@sap-ux/fiori-docs-embeddings/package.json');
const file = new URL('data/embeddings/records.jsonl', source);
const records = (await readFile(fileURLToPath(file), 'utf8'))
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Record);
const chunks: { document: number; text: string; headings: readonly string[] }[] = [];
for (const [document, { content }] of records.entries()) {
  const body = content.replace(/\*\*TITLE\*\*:.*\n/, '').replace(/\*\*TAGS\*\*:.*\n/, '');
  const parsed = parseMarkdown(body.slice(0, MAX_CHARACTERS));
  for (const each of await chunk(parsed, countTokens, SIZE)) chunks.push({ document, ...each });
}
const titles = records.map(({ title = '' }) => title.trim());
const asked = titles.flatMap((title, document) =>
  title.length > 12 && titles.indexOf(title) === document ? [{ title, document }] : [],
);
print(`${records.length} documents, ${chunks.length} chunks, ${asked.length} questions`);

const vectors = await embed(chunks.map(({ text }) => text));
const questions = await embed(asked.map(({ title }) => title));
const postings = new Map<number, { at: number; value: number }[]>();
for (const [at, { text, headings }] of chunks.entries()) {
  const { indices, values } = chunkVector(text, headings);
  for (const [i, index] of indices.entries()) {
    const list = postings.get(index) ?? [];
    postings.set(index, list);
    list.push({ at, value: values[i] ?? 0 });
  }
}
const chunksWith = new Map([...postings].map(([index, list]) => [index, list.length]));

function best(scores: Float32Array): Ranked[] {
  return Array.from(scores, (score, at) => ({ id: String(at), score }))
    .toSorted((a, b) => b.score - a.score)
    .slice(0, CANDIDATES);
}

function byMeaning(question: Float32Array): Ranked[] {
  return best(
    Float32Array.from(vectors, (row) => row.reduce((sum, x, i) => sum + x * (question[i] ?? 0), 0)),
  );
}

function byWords(title: string): Ranked[] {
  const scores = new Float32Array(chunks.length);
  const { indices, values } = queryVector(queryTerms(title), chunksWith, chunks.length);
  for (const [i, index] of indices.entries()) {
    for (const { at, value } of postings.get(index) ?? []) {
      scores[at] = (scores[at] ?? 0) + value * (values[i] ?? 0);
    }
  }
  return best(scores).filter(({ score }) => score > 0);
}

/** Of the document, whose rank is that of its best chunk; 0 when it was not found. */
function reciprocalRank(ranked: readonly Ranked[], document: number): number {
  const seen = new Set(ranked.map(({ id }) => chunks[Number(id)]?.document));
  return seen.has(document) ? 1 / ([...seen].indexOf(document) + 1) : 0;
}

const sums = { dense: 0, sparse: 0, hybrid: 0 };
for (const [i, { title, document }] of asked.entries()) {
  const dense = byMeaning(questions[i] ?? new Float32Array());
  const sparse = byWords(title);
  sums.dense += reciprocalRank(dense, document);
  sums.sparse += reciprocalRank(sparse, document);
  sums.hybrid += reciprocalRank(fuse(dense, sparse), document);
}
for (const [mode, sum] of Object.entries(sums)) {
  print(`  ${mode.padEnd(8)} MRR ${(sum / asked.length).toFixed(3)}`);
}
await engine.close();
await rm(cache, { recursive: true, force: true });
clearInterval(alive);
