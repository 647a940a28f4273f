/**
 * PostgreSQL's NOTIFY as a call back (https://www.postgresql.org/docs/current/sql-notify.html). Notices are
 * hints: one may be lost while the connection is, so whoever relies on them looks from time to time as well.
 */
import pg from 'pg';

const RETRY_MS = 1000;
/**
 * Notices of one connection before it is left for RETRY_MS. Any session of the database may send them, that of
 * a plugin too, and each has to be read.
 */
const MAX_NOTICES = 2000;
/** After so long without being left a connection counts from zero. */
const WINDOW_MS = 1000;

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
    let notices = 0;
    let since = performance.now();
    next.on('notification', () => {
      const now = performance.now();
      if (now - since > WINDOW_MS) [notices, since] = [0, now];
      notices += 1;
      if (notices <= MAX_NOTICES) onNotice();
      // At once: what is on its way already is not read any more.
      else if (client === next) next.connection.stream.destroy();
    });
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
