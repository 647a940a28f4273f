/** Retrieval-augmented answers in a plugin: passages as vectors, the likest of them as what a model answers from. */
import { definePlugin } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

const COLLECTION = 'pages';
const EMBEDDER = 'use-lite';
const SHOWN = 3;

export default definePlugin<Plugin>({
  async add({ title, text }, { inference, vector }) {
    const passages = text
      .split(/\n\s*\n/)
      .map((each) => each.trim())
      .filter((each) => each !== '');
    const { vectors, dimensions } = await inference.embed(EMBEDDER, passages);
    // Made at the first page; one that is there already is left as it is.
    await vector.create(COLLECTION, {
      vectors: { default: { dimensions, distance: 'cosine' } },
    });
    // The page may have had more passages before.
    await vector.deletePoints(COLLECTION, { filter: { field: 'title', eq: title } });
    const points = passages.map((passage, i) => ({
      id: `${title}#${i}`,
      vector: vectors[i] ?? [],
      payload: { title, text: passage },
    }));
    return { passages: await vector.upsert(COLLECTION, points) };
  },

  async ask({ question, title }, { config, inference, vector }) {
    const { vectors } = await inference.embed(EMBEDDER, [question]);
    const { hits } = await vector.search(COLLECTION, {
      vector: vectors[0] ?? [],
      limit: SHOWN,
      ...(title !== undefined && { filter: { field: 'title', eq: title } }),
    });
    const passages = hits.map(({ payload = {}, score }) => ({
      title: String(payload['title']),
      text: String(payload['text']),
      likeness: score,
    }));
    if (config.model === undefined || passages.length === 0) return { passages };
    const excerpts = passages.map(({ text }, i) => `[${i + 1}] ${text}`).join('\n\n');
    const { message } = await inference.generate(config.model, {
      messages: [
        {
          role: 'system',
          content: 'Answer from the numbered excerpts alone, and name them as [1].',
        },
        { role: 'user', content: `${excerpts}\n\nQuestion: ${question}` },
      ],
    });
    return { passages, answer: String(message?.['content'] ?? '') };
  },
});
