/** `noa plugin list | show | call | config | logs`; the rest of a plugin's life is in plugin-life.ts. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { type Json, NoaError } from '@noa/sdk/host';
import type { PluginDetail, PluginView } from '../kernel/views.ts';
import type { LogPage } from '../transports/admin.ts';
import { registerDeadLetters } from './dead-letters.ts';
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

function parseInput(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new NoaError('INVALID_ARGUMENT', `the input must be JSON: ${why}`, { cause });
  }
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
