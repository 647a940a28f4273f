/**
 * The connections to the host's own state. Invariant: once closed, no session of it is left on the server,
 * so that a database which stops next cuts none.
 */
import { Pool, type PoolConfig } from 'pg';

export interface StatePool extends AsyncDisposable {
  readonly pool: Pool;
}

/** `onLost` hears of a resting connection that broke; the next query opens another. */
export function openStatePool(config: PoolConfig, onLost: (error: Error) => void): StatePool {
  const pool = new Pool(config);
  pool.on('error', onLost);
  let open = 0;
  const last = Promise.withResolvers<void>();
  pool.on('connect', (client) => {
    open++;
    // While it is lent out, the pool does not listen, and an unheard error would end the host. The query
    // that the borrower runs, or runs next, fails with it.
    client.on('error', () => {});
  });
  pool.on('remove', () => {
    if (--open === 0 && pool.ending) last.resolve();
  });
  return {
    pool,
    async [Symbol.asyncDispose]() {
      // `end` resolves when the connections are told to close; 'remove' comes when they are closed.
      await pool.end();
      if (open > 0) await last.promise;
    },
  };
}
