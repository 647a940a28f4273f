/** Takes orders and tells of them; counts them when they come back as events, each once. */
import { definePlugin } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

export default definePlugin<Plugin>({
  async place(order, { events }) {
    const { id } = await events.publish('orders.placed', 'order', order);
    return { event: id };
  },

  /** Events arrive at least once, so an event that is here already changes nothing. */
  async count({ id, data }, { db, log }) {
    const { item, quantity } = data as { item: string; quantity: number };
    const { rowCount } = await db.execute(
      'insert into lines (event, item, quantity) values ($1, $2, $3) on conflict do nothing',
      [id, item, quantity],
    );
    if (rowCount === 0) log.info('came again', { id });
  },

  async report(_input, { config, db, log }) {
    const rows = await db.query<{ item: string; total: string }>(
      'select item, sum(quantity) as total from lines group by item order by item',
    );
    const lines = rows.map(({ item, total }) => `${item}: ${total}`);
    const text = [config.title ?? 'Orders', ...lines].join('\n');
    log.info(text);
    return { text };
  },
});
