/** What an administrative change finds and leaves behind: the records that must be there, its audit events. */
import { type Json, NoaError } from '@noa/sdk/host';
import type { AuditEvent } from './audit.ts';
import type { Grant } from './grants.ts';
import type { PluginRecord, StoreTx } from './store.ts';
import { noPlugin } from './views.ts';

/** Rejects with NOT_FOUND. */
export async function mustHave(tx: StoreTx, name: string): Promise<PluginRecord> {
  const record = await tx.plugin(name);
  if (record === undefined) throw noPlugin(name);
  return record;
}

/** As `mustHave`, for a change of the version that serves. Rejects with CONFLICT when it is pinned. */
export async function mustMove(tx: StoreTx, name: string): Promise<PluginRecord> {
  const record = await mustHave(tx, name);
  if (!record.pinned) return record;
  const version = await versionOf(tx, record);
  throw new NoaError(
    'CONFLICT',
    `plugin ${name} is pinned to ${version}: noa plugin unpin ${name} lets it change`,
  );
}

/** The version that serves, or will once it may. */
export async function versionOf(tx: StoreTx, { name, active }: PluginRecord): Promise<string> {
  return (await tx.versions(name)).find(({ digest }) => digest === active)?.version ?? active;
}

/**
 * A change, after which no two enabled plugins may claim one gRPC method. Rejects with CONFLICT, which
 * leaves the method to the one that has it.
 */
export function unclaimed<T, Note>(
  plugin: string,
  work: (tx: StoreTx, note: Note) => Promise<T>,
): (tx: StoreTx, note: Note) => Promise<T> {
  return async (tx, note) => {
    const result = await work(tx, note);
    const claims = (await tx.grpcVersions()).flatMap((version) =>
      (version.manifest.contributes?.grpc ?? []).map(({ method }) => ({ ...version, method })),
    );
    for (const { method } of claims.filter((claim) => claim.plugin === plugin)) {
      const other = claims.find((claim) => claim.plugin !== plugin && claim.method === method);
      if (other === undefined) continue;
      const text = `${method} is answered by plugin ${other.plugin} ${other.version}: disable or remove it before ${plugin} can answer it`;
      throw new NoaError('CONFLICT', text);
    }
    return result;
  };
}

export function noGrant(id: string): NoaError {
  const shown = JSON.stringify(id.slice(0, 64));
  return new NoaError('NOT_FOUND', `there is no grant ${shown}: noa grant list`);
}

export function event(
  kind: string,
  actor: string,
  plugin: string | null,
  details: Json,
): AuditEvent {
  const none = { capability: null, operation: null, resources: [], code: null };
  return { kind, actor, plugin, ...none, outcome: 'ok', details };
}

export function grantEvent(kind: string, actor: string, grant: Grant): AuditEvent {
  return {
    kind,
    actor,
    plugin: grant.plugin,
    capability: grant.capability,
    operation: grant.operations.join(','),
    resources: grant.resources,
    outcome: 'ok',
    code: null,
    details: { grant: grant.id },
  };
}
