/**
 * Runs the migrations of a plugin's bundle: each once, in order, as the owner of the plugin's schema, in
 * a transaction of its own. Invariant: the host's record and the plugin's tables agree after a crash at
 * any moment. The record is written before the migration, with the id of its transaction, and the
 * server is asked afterwards what became of that transaction.
 */
import { NoaError, type Provision } from '@noa/sdk/host';
import type pg from 'pg';
import { sha256 } from './area.ts';
import { fromDatabase } from './failures.ts';
import type { Session } from './session.ts';

/** Runs what of `request.migrations` has not run; `asOwner` lends a session of the schema's owner. */
export async function migrate(
  admin: pg.ClientBase,
  request: Provision,
  asOwner: (work: (session: Session) => Promise<void>) => Promise<void>,
): Promise<void> {
  const { plugin, migrations } = request;
  const applied = await settle(admin, plugin);
  const pending = migrations.filter(({ name, sql }) => {
    const known = applied.get(name);
    if (known !== undefined && known !== sha256(sql)) {
      throw new NoaError(
        'CONFLICT',
        `db: migration ${name} of ${plugin} was changed after it had run here; add a new migration instead`,
      );
    }
    return known === undefined;
  });
  if (pending.length === 0) return;
  await asOwner(async (session) => {
    for (const migration of pending) await runOne(admin, plugin, migration, session);
  });
}

async function runOne(
  admin: pg.ClientBase,
  plugin: string,
  { name, sql }: Provision['migrations'][number],
  session: Session,
): Promise<void> {
  try {
    await session.script(sql, async (xid) => {
      await admin.query(
        'INSERT INTO noa.plugin_migrations (plugin, name, sha256, xid) VALUES ($1, $2, $3, $4)',
        [plugin, name, sha256(sql), xid],
      );
    });
  } catch (error) {
    const { code, message, details } = fromDatabase(error);
    const text = message.replace(/^db: /, '');
    throw new NoaError(code, `db: migration ${name} of ${plugin}: ${text}`, {
      details,
      cause: error,
    });
  } finally {
    // Only after the roll-back does the server know what became of the transaction.
    await session.fresh.catch(() => undefined);
    await settle(admin, plugin);
  }
}

/** Confirms or forgets what was begun; answers what has run: name → sha256. */
async function settle(admin: pg.ClientBase, plugin: string): Promise<Map<string, string>> {
  await admin.query(
    `DELETE FROM noa.plugin_migrations WHERE plugin = $1 AND xid IS NOT NULL
        AND coalesce(pg_xact_status(xid), 'aborted') = 'aborted'`,
    [plugin],
  );
  await admin.query(
    `UPDATE noa.plugin_migrations SET xid = NULL WHERE plugin = $1 AND pg_xact_status(xid) = 'committed'`,
    [plugin],
  );
  const { rows } = await admin.query<{ name: string; sha256: string; open: boolean }>(
    'SELECT name, sha256, xid IS NOT NULL AS open FROM noa.plugin_migrations WHERE plugin = $1',
    [plugin],
  );
  const open = rows.find((row) => row.open);
  if (open) {
    throw new NoaError(
      'UNAVAILABLE',
      `db: migration ${open.name} of ${plugin} is still being ended by the database; try again`,
    );
  }
  return new Map(rows.map((row) => [row.name, row.sha256]));
}
