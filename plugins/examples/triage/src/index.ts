/** Sorts messages by what they are about, and answers questions that are like known ones. */
import { definePlugin, NoaError } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

const MODEL = 'use-lite';

export default definePlugin<Plugin>({
  async sort({ text }, { config, inference }) {
    const { results } = await inference.classify(MODEL, [text], { labels: config.topics });
    const [best] = results[0] ?? [];
    if (best === undefined) throw new NoaError('INTERNAL', 'the model named no topic');
    return { about: best.label, certainty: best.score };
  },

  async answer({ question }, { config, inference }) {
    const known = config.answers.map((each) => each.question);
    const { vectors } = await inference.embed(MODEL, [question, ...known]);
    const [asked = new Float32Array(), ...rows] = vectors;
    const ranked = config.answers
      .map(({ answer }, at) => ({ answer, likeness: dot(asked, rows[at]) }))
      .sort((a, b) => b.likeness - a.likeness);
    const [best] = ranked;
    if (best === undefined) throw new NoaError('NOT_FOUND', 'no answers are configured');
    return best;
  },
});

/** Of vectors of unit length: how alike they are. */
function dot(a: Float32Array, b: Float32Array = a): number {
  return a.reduce((sum, value, at) => sum + value * (b[at] ?? 0), 0);
}
