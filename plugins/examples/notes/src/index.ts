/** Notes in the plugin's own table `notes`, with a count of reads for each in the cache. */
import { definePlugin, NoaError } from '@noa/sdk';
import type { CreateOutput, Plugin } from './noa.gen.ts';

const NEWEST_AFTER = `
  select id, text from notes
  where $2::text is null or seq < (select seq from notes where id = $2)
  order by seq desc limit $1`;

export default definePlugin<Plugin>({
  async create({ text }, { db, log, random }) {
    const id = random.uuid();
    await db.execute('insert into notes (id, text) values ($1, $2)', [id, text]);
    log.info('note created', { id });
    return { id, text };
  },

  async read({ id }, { db, cache }) {
    const [note] = await db.query<CreateOutput>('select id, text from notes where id = $1', [id]);
    if (note === undefined) throw new NoaError('NOT_FOUND', 'There is no note of this id.');
    return { ...note, reads: await cache.increment(`notes:reads:${id}`) };
  },

  async list({ limit = 20, after }, { db }) {
    const found = await db.query<CreateOutput>(NEWEST_AFTER, [limit + 1, after ?? null]);
    const notes = found.slice(0, limit);
    const last = notes.at(-1);
    return found.length > limit && last !== undefined ? { notes, next: last.id } : { notes };
  },
});
