/** The connections to the host's own state: what becomes of them when the database or the host ends. */
import pg from 'pg';
import t from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { openStatePool } from '../../host/store/pool.ts';
import { testDatabase } from '../capabilities/database.ts';

const server = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
t.teardown(() => server.stop());
const config = { ...connectionConfig(server.url), max: 3 };

/** Runs beside the pool, as an administrator of the database would. */
async function beside<T extends object>(sql: string, values: unknown[] = []): Promise<T[]> {
  const client = new pg.Client(connectionConfig(server.url));
  await client.connect();
  try {
    return (await client.query<T>(sql, values)).rows;
  } finally {
    await client.end();
  }
}

t.test(
  'a connection that breaks between two queries of its borrower fails the second',
  async (t) => {
    await using opened = openStatePool(config, () => undefined);
    const client = await opened.pool.connect();
    const { rows } = await client
      .query<{ pid: number }>('begin; select pg_backend_pid() as pid')
      .then(
        (result) => (Array.isArray(result) ? result[1] : result) as pg.QueryResult<{ pid: number }>,
      );
    const ended = new Promise((resolve) => client.once('end', resolve));
    await beside('select pg_terminate_backend($1)', [rows[0]?.pid]);
    await ended; // Nobody reads from it now: its error must not end the process.
    await t.rejects(client.query('select 1'));
    client.release(true);
    t.match(await opened.pool.query('select 1 as one'), { rows: [{ one: 1 }] });
  },
);

t.test('a resting connection that breaks is told, and replaced', async (t) => {
  const lost: string[] = [];
  await using opened = openStatePool(config, ({ message }) => lost.push(message));
  const { rows } = await opened.pool.query<{ pid: number }>('select pg_backend_pid() as pid');
  const removed = new Promise((resolve) => opened.pool.once('remove', resolve));
  await beside('select pg_terminate_backend($1)', [rows[0]?.pid]);
  await removed;
  t.match(lost, [/terminating connection/]);
  t.match(await opened.pool.query('select 1 as one'), { rows: [{ one: 1 }] });
});

t.test('a closed pool leaves no session on the server', async (t) => {
  const name = `noa-pool-${process.pid}`;
  const opened = openStatePool({ ...config, application_name: name }, () => undefined);
  await Promise.all([1, 2, 3].map(() => opened.pool.query('select pg_sleep(0.05)')));
  await opened[Symbol.asyncDispose]();
  const left = await beside('select 1 from pg_stat_activity where application_name = $1', [name]);
  t.strictSame(left, []);
});
