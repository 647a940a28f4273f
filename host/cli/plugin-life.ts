/** `noa plugin install | upgrade | rollback | pin | unpin | enable | disable | remove`. */
import type { Command } from 'commander';
import { NoaError } from '@noa/sdk/host';
import type { PluginView } from '../kernel/views.ts';
import { bundleAt } from './bundle.ts';
import { installed, pluginPath, standing } from './plugin-text.ts';
import type { Session } from './session.ts';
import { ask } from './terminal.ts';

const PLACE = 'the plugin’s folder, its .tgz, or an npm package: [npm:]NAME[@VERSION]';

interface BundleFlags {
  readonly digest?: string;
  readonly build: boolean;
}

export function registerPluginLife(plugin: Command, session: Session): void {
  bundleOptions(plugin.command('install'))
    .description('install a plugin; it asks for grants and gets none by itself')
    .argument('<path>', PLACE)
    .action((path: string, flags: BundleFlags) =>
      send('POST', '/v1/plugins', path, flags, session),
    );
  bundleOptions(plugin.command('upgrade'))
    .description('install another version; it takes over without a failed call')
    .argument('<name>')
    .argument('<path>', PLACE)
    .action((name: string, path: string, flags: BundleFlags) =>
      send('PUT', pluginPath(name), path, flags, session),
    );
  for (const [verb, does] of [
    ['enable', 'let a plugin serve'],
    ['disable', 'stop a plugin after its running calls'],
    ['rollback', 'return to the version before the last upgrade'],
    ['unpin', 'let a plugin change its version again'],
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
    .command('pin')
    .description('keep a plugin at its version: upgrades are refused until it is unpinned')
    .argument('<name>')
    .argument('[version]', 'refuse unless this is the version that serves')
    .action(async (name: string, version?: string) => {
      const json = version === undefined ? {} : { version };
      const view = await session.request<PluginView>('POST', `${pluginPath(name)}/pin`, { json });
      session.result(view, standing(view));
    });
  plugin
    .command('remove')
    .description('remove a plugin with its grants; its data stays unless it is to be dropped')
    .argument('<name>')
    .option('--keep-data', 'leave its tables, cache entries and blobs for a later installation')
    .option('--drop-data', 'delete them')
    .option('--yes', 'ask nothing; what is not said is kept')
    .action((name: string, flags: RemoveFlags) => remove(name, flags, session));
}

function bundleOptions(command: Command): Command {
  return command
    .option('--digest <digest>', 'refuse any other bundle than this one: sha256:…')
    .option('--no-build', 'take a folder’s module as it is, also when sources are newer');
}

async function send(
  method: 'POST' | 'PUT',
  path: string,
  place: string,
  { digest, build }: BundleFlags,
  session: Session,
): Promise<void> {
  const bundle = await bundleAt(place, session, { build });
  const query = digest === undefined ? '' : `?digest=${encodeURIComponent(digest)}`;
  const view = await session.request<PluginView>(method, path + query, { bundle });
  session.result(view, installed(view, session.io.columns));
}

interface RemoveFlags {
  readonly keepData?: true;
  readonly dropData?: true;
  readonly yes?: true;
}

async function remove(name: string, flags: RemoveFlags, session: Session): Promise<void> {
  if (flags.keepData && flags.dropData) {
    throw new NoaError('INVALID_ARGUMENT', 'say --keep-data or --drop-data, not both');
  }
  const data = flags.dropData || (await asked(name, flags, session)) ? 'drop' : 'keep';
  await session.request('DELETE', `${pluginPath(name)}?data=${data}`);
  const text = data === 'keep' ? 'its data stays' : 'its data is deleted';
  session.result({ name, data }, `removed ${name}; ${text}`);
}

/** Whether a person wants the data deleted. What nobody asks for is not deleted. */
async function asked(name: string, flags: RemoveFlags, session: Session): Promise<boolean> {
  if (flags.keepData || flags.yes || session.json()) return false;
  await session.request('GET', pluginPath(name)); // no question about a plugin that is not there
  const question = `Delete the data of ${name} too: tables, cache entries, blobs? [y/N] `;
  const answer = await ask(question, session.io);
  return answer === 'y' || answer === 'yes';
}
