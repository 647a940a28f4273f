/** `noa model list | load | unload`: the models that plugins can be granted. */
import type { Command } from 'commander';
import type { ModelView } from '../kernel/models.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

const PATH = '/v1/inference/models';

export function registerModel(program: Command, session: Session): void {
  const model = program.command('model').description('the models that plugins can be granted');
  model
    .command('list')
    .description('show the models of this host and of its upstreams')
    .action(async () => {
      const models = await session.requestAll<ModelView>(PATH, 'models');
      const rows = models.map(({ id, version, task, state, bytes, reason = '' }) => [
        id,
        version,
        task,
        state,
        bytes === undefined ? '' : `${Math.ceil(bytes / (1 << 20))} MiB`,
        reason,
      ]);
      const heads = ['MODEL', 'VERSION', 'TASK', 'STATE', 'MEMORY', ''];
      session.result(models, table(heads, rows, session.io.columns));
    });
  for (const [action, words, done] of [
    ['load', 'load a model before its first use, or once what was wrong is mended', 'is ready'],
    ['unload', 'give the memory of a model back', 'is not loaded any more'],
  ] as const) {
    model
      .command(action)
      .description(words)
      .argument('<model>')
      .option('--version <version>', 'the newest when absent')
      .action(async (id: string, { version }: { version?: string }) => {
        const json = { model: id, ...(version === undefined ? {} : { version }) };
        const view = await session.request<ModelView>('POST', `${PATH}/${action}`, { json });
        session.result(view, `${view.id} ${view.version} ${done}`);
      });
  }
}
