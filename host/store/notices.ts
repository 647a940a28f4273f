/**
 * PostgreSQL's NOTIFY as a call back (https://www.postgresql.org/docs/current/sql-notify.html). Notices are
 * hints: one may be lost while the connection is, so whoever relies on them looks from time to time as well.
 */
import pg from 'pg';

const RETRY_MS = 1000;

/** Listens until it is disposed of; calls back for each notice, and after each new connection. */
export function listenTo(
  config: pg.ClientConfig,
  channel: string,
  onNotice: () => void,
): AsyncDisposable {
  let closed = false;
  let client: pg.Client | undefined;
  let timer: NodeJS.Timeout | undefined;

  const connect = async (): Promise<void> => {
    const next = new pg.Client({ ...config, keepAlive: true });
    client = next;
    const lost = (): void => {
      if (client !== next) return;
      client = undefined;
      // What holds the connection's socket goes with it; that it ended was all there was to know.
      next.end().catch(() => undefined);
      if (!closed) timer = setTimeout(() => void connect(), RETRY_MS).unref();
    };
    next.on('notification', onNotice);
    next.on('error', lost);
    next.on('end', lost);
    try {
      await next.connect();
      await next.query(`listen ${pg.escapeIdentifier(channel)}`);
      onNotice();
    } catch {
      lost(); // the pool's users report that the database is away; this one tries again
    }
  };

  const connecting = connect();
  return {
    async [Symbol.asyncDispose]() {
      closed = true;
      clearTimeout(timer);
      await connecting;
      const last = client;
      client = undefined;
      await last?.end();
    },
  };
}
