/** `noa secret set | list | remove`. A value never stands on a command line, where others can read it. */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { Command } from 'commander';
import { NoaError } from '@noa/sdk/host';
import type { SecretView } from '../kernel/store.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

export function registerSecret(program: Command, session: Session): void {
  const secret = program
    .command('secret')
    .description('keep values, such as keys of other services, for plugins that may read them');
  secret
    .command('set')
    .description('set a secret to what standard input or a file holds, without its last line end')
    .argument('<name>')
    .option('--from-file <file>', 'take the value from this file')
    .action(async (name: string, { fromFile }: { fromFile?: string }) => {
      if (fromFile === undefined && 'isTTY' in session.io.stdin && session.io.stdin.isTTY === true)
        session.note('type the value, then end it with Ctrl-D on a line of its own');
      const bytes =
        fromFile === undefined
          ? await buffer(session.io.stdin)
          : await readFile(resolve(session.io.cwd, fromFile)).catch((cause: unknown) => {
              const why = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
              const text = `--from-file ${fromFile} cannot be read (${why})`;
              throw new NoaError('INVALID_ARGUMENT', text, { cause });
            });
      const json = { value: textOf(bytes) };
      const view = await session.request<SecretView>('PUT', secretPath(name), { json });
      session.result(view, `set ${view.name}; it holds on every host within a second`);
    });
  secret
    .command('list')
    .description('show the names of the secrets')
    .action(async () => {
      const secrets = await session.requestAll<SecretView>('/v1/secrets', 'secrets');
      session.result(secrets, list(secrets, session.io.columns));
    });
  secret
    .command('remove')
    .description('delete a secret')
    .argument('<name>')
    .action(async (name: string) => {
      await session.request('DELETE', secretPath(name));
      session.result({ name }, `removed ${name}`);
    });
}

function secretPath(name: string): string {
  return `/v1/secrets/${encodeURIComponent(name)}`;
}

function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
      .decode(bytes)
      .replace(/\r?\n$/, '');
  } catch (cause) {
    const text = 'the value is not UTF-8 text: encode bytes first, for example as base64';
    throw new NoaError('INVALID_ARGUMENT', text, { cause });
  }
}

function list(secrets: readonly SecretView[], columns: number): string {
  if (secrets.length === 0) return 'there are no secrets';
  const rows = secrets.map(({ name, createdAt, updatedAt }) => [name, createdAt, updatedAt]);
  return table(['NAME', 'CREATED', 'UPDATED'], rows, columns);
}
