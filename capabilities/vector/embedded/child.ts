/**
 * Entry of the process that keeps the vectors of a data folder: a fault of a native library ends it, and not
 * the host. It does one thing at a time, and ends when its channel closes.
 */
import type { Form, NewPoint, Query, Rows, VectorStore } from '../store.ts';
import { openExact } from './exact.ts';
import { asFailure, type Reply, type Request } from './protocol.ts';
import { Shelves } from './shelves.ts';
import { openZvec } from './zvec.ts';
import { NoaError } from '@noa/sdk/host';

const [folder = '', limit = '', engine = 'auto'] = process.argv.slice(2);
const MAX_POINTS = Number(limit);
/** The index is tended when nothing was written for so long. */
const QUIET_MS = 1000;

const send = (reply: Reply): void => {
  if (process.connected) process.send?.(reply);
};

let quiet: NodeJS.Timeout | undefined;

type Served = Omit<VectorStore, 'system' | 'check' | 'close'>;

function serve(shelves: Shelves): Served {
  const tendSoon = (): void => {
    clearTimeout(quiet);
    quiet = setTimeout(() => void tend(shelves), QUIET_MS);
  };
  return {
    list: (space) => shelves.views(space),
    async describe(space, name) {
      const shelf = await shelves.find(space, name);
      const views = await shelves.views(space);
      const own = views.find((view) => view.collection === name || view.aliases.includes(name));
      if (own === undefined) throw new TypeError(`no view of ${shelf.size} points`);
      return own;
    },
    create: (space, name, form: Form) => shelves.create(space, name, form),
    drop: (space, name) => shelves.drop(space, name),
    alias: (space, alias, name) => shelves.alias(space, alias, name),
    unalias: (space, alias) => shelves.unalias(space, alias),
    async upsert(space, name, points: readonly NewPoint[], rows: Rows) {
      const shelf = await shelves.find(space, name);
      const views = await shelves.views(space);
      const there = views.reduce((sum, view) => sum + view.points, 0);
      const more = shelf.countNew(points);
      if (there + more > MAX_POINTS) {
        const text = `the plugin has ${there} points, and plugins.vector_max_points is ${MAX_POINTS}: delete some`;
        throw new NoaError('RESOURCE_EXHAUSTED', text);
      }
      shelf.upsert(points, rows);
      tendSoon();
    },
    search: async (space, name, query: Query) => (await shelves.find(space, name)).search(query),
    scroll: async (space, name, { after, limit: count, filter, withVectors }) =>
      (await shelves.find(space, name)).scroll(after, count, filter, withVectors),
    async delete(space, name, which) {
      return (await shelves.find(space, name)).delete(which);
    },
    dropSpace: (space) => shelves.dropSpace(space),
  };
}

async function tend(shelves: Shelves): Promise<void> {
  try {
    for await (const shelf of shelves.due()) await shelf.tend();
  } catch (error) {
    send({ type: 'trouble', message: `an index of vectors cannot be tended: ${String(error)}` });
  }
}

async function open(): Promise<Served> {
  if (engine !== 'exact') {
    try {
      const shelves = new Shelves(folder, await openZvec());
      send({ type: 'ready', engine: 'zvec' });
      return serve(shelves);
    } catch (error) {
      send({ type: 'ready', engine: 'exact', reason: String(error).slice(0, 500) });
    }
  } else send({ type: 'ready', engine: 'exact' });
  return serve(new Shelves(folder, openExact));
}

process.on('disconnect', () => process.exit());
const served = open();
/** In the order in which they came. */
let turn: Promise<unknown> = Promise.resolve();
process.on('message', ({ id, method, args }: Request) => {
  const run = async (): Promise<void> => {
    try {
      const work: (...given: never[]) => Promise<unknown> = (await served)[method];
      send({ type: 'answer', id, value: await work(...(args as never[])) });
    } catch (error) {
      send(asFailure(id, error));
    }
  };
  turn = turn.then(run);
});
