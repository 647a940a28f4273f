/** `noa plugin list | show | logs`, beside the commands of its other files. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { HealthView } from '../kernel/health.ts';
import type { PluginDetail, PluginView } from '../kernel/views.ts';
import type { LogPage } from '../transports/admin-plugins.ts';
import { registerDeadLetters } from './dead-letters.ts';
import { registerPluginCall } from './plugin-call.ts';
import { registerPluginConfig } from './plugin-config.ts';
import { registerPluginLife } from './plugin-life.ts';
import { describe, list, pluginPath } from './plugin-text.ts';
import type { Session } from './session.ts';

const POLL_MS = 500;
const LOG_PAGE = 1000;

export function registerPlugin(plugin: Command, session: Session): void {
  registerPluginLife(plugin, session);
  plugin
    .command('list')
    .description('show the installed plugins')
    .action(async () => {
      const plugins = await session.requestAll<PluginView>('/v1/plugins', 'plugins');
      session.result(plugins, list(plugins, session.io.columns));
    });
  plugin
    .command('show')
    .description(
      'show one plugin: state, exports, routes, versions, how it fares, what it asks for',
    )
    .argument('<name>')
    .action(async (name: string) => {
      const detail = await session.request<PluginDetail>('GET', pluginPath(name));
      const health = await session.request<HealthView>('GET', `${pluginPath(name)}/health`);
      const { lastMinute, lastError, droppedLogLines } = health;
      const shown = { ...detail, lastMinute, lastError, droppedLogLines };
      session.result(shown, describe(detail, health, session.io.columns));
    });
  registerPluginCall(plugin, session);
  registerPluginConfig(plugin, session);
  registerDeadLetters(plugin, session);
  plugin
    .command('logs')
    .description('print what a plugin logged')
    .argument('<name>')
    .option('--follow', 'go on as more is logged')
    .action((name: string, { follow }: { follow?: boolean }) =>
      logs(name, follow === true, session),
    );
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
