/**
 * The author's loop: after each change build, then put the plugin into the running host and show what it
 * logs there, or run its tests when no host answers.
 */
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { packPlugin } from '@noa/sdk/author';
import { type Json, NoaError } from '@noa/sdk/host';
import { size } from './inspect.ts';
import type { AuthorIo, DevHost } from './io.ts';
import { build } from './project.ts';
import { runTests } from './run-tests.ts';
import { changes } from './watch.ts';

const LOG_POLL_MS = 500;

/** Runs until `io.signal` aborts. A failed build, test or installation is shown and waits for a change. */
export async function dev(dir: string, io: AuthorIo): Promise<void> {
  const host = await io.connect();
  io.note(host ? `installing into ${host.url}` : 'no host answers: building and testing only');
  const { signal } = io;
  const turn = async (): Promise<string | undefined> => {
    try {
      return await round(dir, io, host);
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!(error instanceof NoaError)) throw error;
      io.result({ event: 'failed', error: error.toBody() }, `✗ ${error.message}`);
      return undefined;
    }
  };
  const watching = changes(dir, signal);
  let name = await turn();
  const logs = host && followLogs(host, () => name, io);
  for await (const _change of watching) name = (await turn()) ?? name;
  await logs;
}

/** Builds, then installs or tests. Answers the plugin's name. */
async function round(dir: string, io: AuthorIo, host: DevHost | undefined): Promise<string> {
  const built = await build({ dir, check: host ? 'sources' : 'sources and tests' });
  for (const warning of built.warnings) io.note(warning);
  const file = path.relative(dir, built.file);
  const text = `✓ built ${file}, ${size(built.bytes)}, in ${built.milliseconds} ms`;
  io.result({ event: 'built', ...built }, text);
  if (host !== undefined) await install(dir, built.name, io, host);
  else {
    const summary = await runTests(dir, { show: !io.json(), signal: io.signal });
    const verdict = summary.failed === 0 ? '✓' : '✗';
    io.result(
      { event: 'tested', ...summary },
      `${verdict} ${summary.passed} passed, ${summary.failed} failed`,
    );
  }
  return built.name;
}

async function install(dir: string, name: string, io: AuthorIo, host: DevHost): Promise<void> {
  const { bytes } = await packPlugin(dir);
  const plugin = await host.send('PUT', `/v1/plugins/${name}`, bytes).catch((error: unknown) => {
    if (!(error instanceof NoaError) || error.code !== 'NOT_FOUND') throw error;
    return host.send('POST', '/v1/plugins', bytes);
  });
  io.result({ event: 'installed', plugin }, verdict(name, plugin));
}

/** Whether the version that was just sent is the one that serves. */
function verdict(name: string, plugin: Json): string {
  const state = textOf(plugin, 'state');
  const reason = textOf(plugin, 'reason');
  const candidate = fieldOf(plugin, 'candidate') ?? null;
  const approve = `noa grant approve ${name} --all`;
  if (candidate !== null) {
    const why = textOf(candidate, 'reason');
    return `… ${name} waits, and the version before serves: ${why}; ${approve}`;
  }
  if (state === 'pending') return `… ${name} waits for its grants: ${approve}`;
  if (state !== 'serving' || reason !== '') {
    return `✗ ${name} was taken, and is ${state}${reason === '' ? '' : `: ${reason}`}`;
  }
  return `✓ installed ${name}, serving`;
}

/** Shows new lines until the signal aborts. A host that is away for a while is asked again. */
async function followLogs(
  host: DevHost,
  name: () => string | undefined,
  io: AuthorIo,
): Promise<void> {
  let since: number | undefined;
  while (!io.signal.aborted) {
    await sleep(LOG_POLL_MS, undefined, { signal: io.signal }).catch(() => undefined); // aborted
    const plugin = name();
    if (plugin === undefined || io.signal.aborted) continue;
    try {
      const query = since === undefined ? '' : `?since=${since}`;
      const page = await host.send('GET', `/v1/plugins/${plugin}/logs${query}`);
      const fresh = since !== undefined;
      since = Number(fieldOf(page, 'next') ?? since ?? 0);
      const lines = fieldOf(page, 'lines');
      // What it logged before this command began is not news.
      for (const line of fresh && Array.isArray(lines) ? lines : []) {
        io.result({ event: 'log', line }, `  ${textOf(line, 'level')} ${textOf(line, 'message')}`);
      }
    } catch (error) {
      if (!(error instanceof NoaError)) throw error;
      if (error.code !== 'NOT_FOUND' && error.code !== 'UNAVAILABLE') throw error;
    }
  }
}

function fieldOf(value: Json, name: string): Json | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? value[name]
    : undefined;
}

function textOf(value: Json, name: string): string {
  const field = fieldOf(value, name);
  return typeof field === 'string' ? field : '';
}
