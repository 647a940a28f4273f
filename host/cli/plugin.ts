/** `noa plugin install | list | show | enable | disable | upgrade | rollback | remove | call | config | logs`. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { type Json, NoaError } from '@noa/sdk/host';
import type { PluginDetail, PluginView } from '../kernel/views.ts';
import type { LogPage } from '../transports/admin.ts';
import { bundleAt } from './bundle.ts';
import { registerPluginConfig } from './plugin-config.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

const POLL_MS = 500;
const LOG_PAGE = 1000;

export function registerPlugin(plugin: Command, session: Session): void {
  plugin
    .command('install')
    .description('install a plugin; it asks for grants and gets none by itself')
    .argument('<path>', 'the plugin’s folder, or its .tgz')
    .action(async (path: string) => {
      const bundle = await bundleAt(path, session);
      const view = await session.request<PluginView>('POST', '/v1/plugins', { bundle });
      session.result(view, installed(view, session.io.columns));
    });
  plugin
    .command('list')
    .description('show the installed plugins')
    .action(async () => {
      const { plugins } = await session.request<{ plugins: PluginView[] }>('GET', '/v1/plugins');
      session.result(plugins, list(plugins, session.io.columns));
    });
  plugin
    .command('show')
    .description('show one plugin: state, exports, routes, versions, what it asks for')
    .argument('<name>')
    .action(async (name: string) => {
      const detail = await session.request<PluginDetail>('GET', pluginPath(name));
      session.result(detail, describe(detail, session.io.columns));
    });
  for (const [verb, does] of [
    ['enable', 'let a plugin serve'],
    ['disable', 'stop a plugin after its running calls'],
    ['rollback', 'return to the version before the last upgrade'],
  ] as const) {
    plugin
      .command(verb)
      .description(does)
      .argument('<name>')
      .action(async (name: string) => {
        const view = await session.request<PluginView>('POST', `${pluginPath(name)}/${verb}`);
        session.result(view, standing(view));
      });
  }
  plugin
    .command('upgrade')
    .description('install another version; it takes over without a failed call')
    .argument('<name>')
    .argument('<path>', 'the plugin’s folder, or its .tgz')
    .action(async (name: string, path: string) => {
      const bundle = await bundleAt(path, session);
      const view = await session.request<PluginView>('PUT', pluginPath(name), { bundle });
      session.result(view, installed(view, session.io.columns));
    });
  plugin
    .command('remove')
    .description('remove a plugin with its grants and its data')
    .argument('<name>')
    .option('--keep-data', 'leave its tables and cache entries')
    .action(async (name: string, { keepData }: { keepData?: boolean }) => {
      const data = keepData === true ? 'keep' : 'drop';
      await session.request('DELETE', `${pluginPath(name)}?data=${data}`);
      session.result(
        { name, data },
        `removed ${name}${keepData === true ? '; its data stays' : ''}`,
      );
    });
  plugin
    .command('call')
    .description('call an export and print its output')
    .argument('<name>')
    .argument('<export>')
    .argument('[json]', 'the input; - reads it from standard input')
    .action(async (name: string, exported: string, text?: string) => {
      const input = text === '-' ? await session.stdin() : text;
      const json = input === undefined ? undefined : parseInput(input);
      const path = `${pluginPath(name)}/exports/${encodeURIComponent(exported)}`;
      const output = await session.request('POST', path, { json });
      session.result(output, JSON.stringify(output, null, 2));
    });
  registerPluginConfig(plugin, session);
  plugin
    .command('logs')
    .description('print what a plugin logged')
    .argument('<name>')
    .option('--follow', 'go on as more is logged')
    .action((name: string, { follow }: { follow?: boolean }) =>
      logs(name, follow === true, session),
    );
}

function pluginPath(name: string): string {
  return `/v1/plugins/${encodeURIComponent(name)}`;
}

function parseInput(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new NoaError('INVALID_ARGUMENT', `the input must be JSON: ${why}`, { cause });
  }
}

function standing({ name, version, state, reason }: PluginView): string {
  return `${name} ${version} is ${state}${reason === null ? '' : `: ${reason}`}`;
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

function installed(view: PluginView, columns: number): string {
  const { name, version, digest, candidate, requested } = view;
  const lines = [
    `installed ${name} ${candidate?.version ?? version}  sha256 ${candidate?.digest ?? digest}`,
  ];
  if (candidate !== null) lines.push(`${version} goes on serving: ${candidate.reason}`);
  if (requested.length > 0) lines.push('', 'it asks for:', requests(view, columns));
  const waits = requested.some(({ status }) => status === 'pending');
  const next = waits ? `noa grant approve ${name} --all` : `noa plugin show ${name}`;
  return [...lines, '', standing(view), `next: ${next}`].join('\n');
}

function list(plugins: readonly PluginView[], columns: number): string {
  if (plugins.length === 0) return 'no plugin is installed\nnext: noa plugin new hello';
  const rows = plugins.map(({ name, version, state, reason }) => [
    name,
    version,
    state,
    reason ?? '',
  ]);
  return table(['NAME', 'VERSION', 'STATE', ''], rows, columns);
}

function describe(detail: PluginDetail, columns: number): string {
  const { manifest, routes, versions, instances, memoryBytes, isolation, restarts } = detail;
  const lines = [standing(detail)];
  if (manifest.description !== undefined) lines.push(manifest.description);
  const rows = [
    ['digest', detail.digest],
    ['exports', Object.keys(manifest.exports).join(', ')],
    ['routes', routes.join(', ')],
    ['versions', versions.map(({ version }) => version).join(', ')],
    ['instances', `${instances}, ${Math.round(memoryBytes / 1024)} KiB`],
    ['isolation', isolation ?? ''],
    ['restarts', String(restarts)],
  ];
  lines.push('', table(['', ''], rows, columns).trimStart());
  if (detail.requested.length > 0) lines.push('', 'it asks for:', requests(detail, columns));
  return lines.join('\n');
}

async function logs(name: string, follow: boolean, session: Session): Promise<void> {
  const client = await session.client();
  const signal = follow ? session.signal : undefined;
  for (let since = 0; ;) {
    const path = `${pluginPath(name)}/logs?since=${since}&limit=${LOG_PAGE}`;
    const page = await client.request<LogPage>('GET', path, {}, signal).catch((error: unknown) => {
      if (signal?.aborted === true) return undefined;
      throw error;
    });
    if (page === undefined) return;
    for (const line of page.lines) {
      session.result(line, `${line.timestamp}  ${line.level.padEnd(5)}  ${line.message}`);
    }
    since = page.next;
    if (page.lines.length === LOG_PAGE) continue;
    if (signal === undefined) return;
    await sleep(POLL_MS, undefined, { signal }).catch(() => undefined); // aborted: the loop ends above
    if (signal.aborted) return;
  }
}
