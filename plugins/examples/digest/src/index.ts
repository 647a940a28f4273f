/** Sums up notes that it reads through the plugin `notes`, never from its table. */
import { definePlugin } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

interface Page {
  notes: { id: string; text: string }[];
}

export default definePlugin<Plugin>({
  async digest({ limit = 20 }, { plugin }) {
    const { notes } = await plugin.call<Page>('notes', 'list', { limit });
    const words = notes.flatMap(({ text }) => text.split(/\s+/).filter((word) => word !== ''));
    const titles = notes.map(({ text }) => text.trim().split('\n', 1).join(''));
    return { notes: notes.length, words: words.length, titles };
  },
});
