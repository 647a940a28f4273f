/** Plugins as people read them. */
import type { ScheduleSpec } from '@noa/sdk/host';
import type { HealthView } from '../kernel/health.ts';
import type { HookView } from '../kernel/hooks.ts';
import type { SubscriptionView } from '../kernel/subscriptions.ts';
import type { PluginDetail, PluginView } from '../kernel/views.ts';
import { table } from './table.ts';

export function pluginPath(name: string): string {
  return `/v1/plugins/${encodeURIComponent(name)}`;
}

export function standing({ name, version, state, pinned, reason }: PluginView): string {
  const where = `${name} ${version} is ${state}${pinned ? ', pinned' : ''}`;
  return reason === null ? where : `${where}: ${reason}`;
}

/** The version that waits, and why. */
function waiting({ candidate }: PluginView): string {
  return candidate === null ? '' : `${candidate.version} waits: ${candidate.reason}`;
}

function requests({ requested }: PluginView, columns: number): string {
  const rows = requested.map(({ capability, operations, resources, optional, reason, status }) => [
    capability,
    operations.join(','),
    resources.join(','),
    optional ? `${status} (optional)` : status,
    reason,
  ]);
  return table(['CAPABILITY', 'OPERATIONS', 'RESOURCES', 'STATUS', 'REASON'], rows, columns);
}

export function installed(view: PluginView, columns: number): string {
  const { name, version, digest, candidate, requested } = view;
  const lines = [
    `installed ${name} ${candidate?.version ?? version}  bundle sha256:${candidate?.digest ?? digest}`,
  ];
  if (candidate !== null) lines.push(`${version} goes on serving: ${candidate.reason}`);
  if (requested.length > 0) lines.push('', 'it asks for:', requests(view, columns));
  const waits = requested.some(({ status }) => status === 'pending');
  const next = waits ? `noa grant approve ${name} --all` : `noa plugin show ${name}`;
  return [...lines, '', standing(view), `next: ${next}`].join('\n');
}

export function list(plugins: readonly PluginView[], columns: number): string {
  if (plugins.length === 0) return 'no plugin is installed\nnext: noa plugin new hello';
  const rows = plugins.map((view) => [
    view.name,
    view.version,
    view.pinned ? `${view.state}, pinned` : view.state,
    [view.reason ?? '', waiting(view)].filter((text) => text !== '').join('; '),
  ]);
  return table(['NAME', 'VERSION', 'STATE', ''], rows, columns);
}

export function describe(detail: PluginDetail, health: HealthView, columns: number): string {
  const {
    manifest,
    routes,
    grpc,
    subscriptions,
    hooks,
    versions,
    instances,
    memoryBytes,
    isolation,
  } = detail;
  const { sha256: module } = manifest.runtime;
  const { schedules = [] } = manifest.contributes ?? {};
  const lines = [standing(detail)];
  if (manifest.description !== undefined) lines.push(manifest.description);
  const rows = [
    ['bundle', `sha256:${detail.digest}`],
    ['module', module === undefined ? 'part of the host' : `sha256:${module}`],
    ...(detail.candidate === null ? [] : [['candidate', waiting(detail)]]),
    ['exports', Object.keys(manifest.exports).join(', ')],
    ['routes', routes.join(', ')],
    ...rowsOf('grpc', grpc),
    ...rowsOf('subscriptions', subscriptions.map(subscriptionText)),
    ...rowsOf('schedules', schedules.map(scheduleText)),
    ...rowsOf('hooks', hooks.map(hookText)),
    ['versions', versions.map(({ version }) => version).join(', ')],
    ['instances', `${instances}, ${Math.round(memoryBytes / 1024)} KiB`],
    ['isolation', isolation ?? ''],
    ['restarts', String(detail.restarts)],
    ['last minute', lastMinute(health)],
    ['last error', lastError(health)],
  ];
  lines.push('', table(['', ''], rows, columns).trimStart());
  if (detail.requested.length > 0) lines.push('', 'it asks for:', requests(detail, columns));
  return lines.join('\n');
}

/** The name stands before the first. */
function rowsOf(name: string, values: readonly string[]): string[][] {
  return values.map((value, i) => [i === 0 ? name : '', value]);
}

function subscriptionText({ subject, export: target, undelivered }: SubscriptionView): string {
  return `${subject} to ${target}${undelivered === null ? '' : `; ${undelivered}`}`;
}

function hookText(hook: HookView): string {
  const { on, export: target, operations, failOpen, inactive } = hook;
  const failing = failOpen ? ', fails open' : '';
  return `${on} ${operations.join(', ')} to ${target}${failing}${inactive === null ? '' : `; ${inactive}`}`;
}

function scheduleText(schedule: ScheduleSpec): string {
  return `${schedule.name}: ${scheduleTime(schedule)} to ${schedule.export}`;
}

export function scheduleTime({ cron, everyMs, timezone = 'UTC' }: ScheduleSpec): string {
  return everyMs === undefined ? `${cron} ${timezone}` : `every ${everyMs} ms`;
}

function lastMinute({ lastMinute: { calls, failures, p50Ms, p95Ms } }: HealthView): string {
  if (calls === 0) return 'no calls';
  return `${calls} calls, ${failures} failed; p50 ${p50Ms} ms, p95 ${p95Ms} ms`;
}

function lastError({ lastError: last }: HealthView): string {
  return last === null ? '' : `${last.at} ${last.export}: ${last.code} ${last.message}`;
}
