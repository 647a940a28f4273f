/** One connection of the state's pool for a piece of work, and what the loss of it means to callers. */
import { NoaError } from '@noa/sdk/host';
import type { Pool, PoolClient } from 'pg';

/** Rejects with UNAVAILABLE when the database is away, whatever the work did until then. */
export async function connected<T>(
  pool: Pool,
  work: (client: PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect().catch((cause: unknown) => {
    throw away(cause);
  });
  try {
    const result = await work(client);
    client.release();
    return result;
  } catch (error) {
    // Its session may be broken or in the middle of something: close it.
    client.release(true);
    throw isConnectionLoss(error) ? away(error) : error;
  }
}

/** SQLSTATE classes 08 and 57P, and what has no SQLSTATE, are losses of the connection. */
function isConnectionLoss(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof NoaError || error instanceof TypeError)
    return false;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  return code === '' || /^(08|57P|53|E[A-Z]+$)/.test(code);
}

function away(cause: unknown): NoaError {
  return new NoaError('UNAVAILABLE', 'the database does not answer: try again later', {
    cause,
    retryAfterMs: 1000,
  });
}
