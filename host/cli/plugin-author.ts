/** The commands around a plugin's source: `noa plugin new | types | build | test | dev | pack | inspect`. */
import path from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { packPlugin } from '@noa/sdk/author';
import { compileSchema, NoaError, PLUGIN_NAME } from '@noa/sdk/host';
import { dev } from './author/dev.ts';
import { describe, inspect, size } from './author/inspect.ts';
import type { AuthorIo } from './author/io.ts';
import { type Language, LANGUAGES, languageOf } from './author/language.ts';
import { newPlugin } from './author/new.ts';
import { build, readManifest, replaceFile, TYPES_FILE, writeTypes } from './author/project.ts';
import { runTests } from './author/run-tests.ts';

export type { AuthorIo, DevHost } from './author/io.ts';

/**
 * Adds the commands to `plugin` (the command `noa plugin`). Their actions reject with NoaError for what is
 * refused or failed (exit code 1); wrong usage is commander's own error (exit code 2).
 */
export function registerAuthorCommands(plugin: Command, io: AuthorIo): void {
  plugin
    .command('new')
    .description('make the folder of a new plugin')
    .argument('<name>', 'lower-case words joined by hyphens', pluginName)
    .addOption(
      new Option('--lang <lang>', 'language of the source (as: AssemblyScript)')
        .choices(LANGUAGES)
        .argParser(language)
        .default('ts'),
    )
    .option('--dir <dir>', 'folder to make; NAME when absent')
    .action((name: string, options: { lang: Language; dir?: string }) => create(name, options, io));

  plugin
    .command('types')
    .description(`write ${TYPES_FILE} from plugin.json`)
    .argument('[dir]', 'folder of the plugin', '.')
    .action((dir: string) => types(path.resolve(dir), io));

  plugin
    .command('build')
    .description('build the module; in TypeScript, check the types as well')
    .argument('[dir]', 'folder of the plugin', '.')
    .option('--out <file>', 'where the module goes; runtime.file of plugin.json when absent')
    .option('--no-check', 'leave out the TypeScript check')
    .action((dir: string, options: { out?: string; check: boolean }) =>
      compile(path.resolve(dir), options, io),
    );

  plugin
    .command('test')
    .description('build, then run test/**/*.test.ts, natively and under the real loader')
    .argument('[dir]', 'folder of the plugin', '.')
    .action((dir: string) => test(path.resolve(dir), io));

  plugin
    .command('dev')
    .description('build after each change, and install into the running host or test')
    .argument('[dir]', 'folder of the plugin', '.')
    .action((dir: string) => dev(path.resolve(dir), io));

  plugin
    .command('pack')
    .description('write the bundle NAME-VERSION.tgz of a built plugin')
    .argument('[dir]', 'folder of the plugin', '.')
    .action((dir: string) => pack(path.resolve(dir), io));

  plugin
    .command('inspect')
    .description('show what a plugin is and asks for')
    .argument('<path>', 'a folder, a .tgz or a .wasm')
    .action(async (file: string) => {
      const report = await inspect(path.resolve(file));
      io.result(report, describe(report));
    });
}

/** In the words of the manifest's rule. */
function pluginName(name: string): string {
  if (compileSchema(PLUGIN_NAME)(name).length === 0) return name;
  throw new InvalidArgumentError(String(PLUGIN_NAME['description']));
}

function language(name: string): Language {
  const found = LANGUAGES.find((known) => known === name);
  if (found !== undefined) return found;
  throw new InvalidArgumentError(
    `Allowed choices are ${LANGUAGES.join(', ')}. A module of another language installs from a folder with plugin.json and the .wasm.`,
  );
}

async function create(
  name: string,
  options: { lang: Language; dir?: string },
  io: AuthorIo,
): Promise<void> {
  const made = await newPlugin(name, path.resolve(options.dir ?? name), options.lang);
  const shown = path.relative('.', made.dir) || '.';
  const lines = [
    `made ${name} in ${shown}`,
    ...(made.linked.length === 0 ? [] : [`linked ${made.linked.join(', ')} into its node_modules`]),
    `next: noa plugin test ${shown}`,
  ];
  io.result(made, lines.join('\n'));
}

async function types(dir: string, io: AuthorIo): Promise<void> {
  if (languageOf(dir) !== 'ts') {
    throw new NoaError('INVALID_ARGUMENT', `Types are for plugins in TypeScript; ${dir} is none.`);
  }
  const file = path.join(dir, TYPES_FILE);
  const changed = await writeTypes(dir, await readManifest(dir));
  io.result(
    { file, changed },
    `${path.relative('.', file)} ${changed ? 'written' : 'is up to date'}`,
  );
}

async function compile(
  dir: string,
  options: { out?: string; check: boolean },
  io: AuthorIo,
): Promise<void> {
  io.note(`building ${path.basename(dir)} …`);
  const out = options.out === undefined ? undefined : path.resolve(options.out);
  const built = await build({ dir, out, check: options.check ? 'sources' : 'nothing' });
  for (const warning of built.warnings) io.note(warning);
  const lines = [
    `${path.relative('.', built.file)}  ${size(built.bytes)}, built in ${built.milliseconds} ms`,
    `module  sha256:${built.sha256}`,
  ];
  io.result(built, lines.join('\n'));
}

async function test(dir: string, io: AuthorIo): Promise<void> {
  io.note(`building ${path.basename(dir)} …`);
  const { warnings } = await build({ dir, check: 'sources and tests' });
  for (const warning of warnings) io.note(warning);
  const summary = await runTests(dir, { show: !io.json(), signal: io.signal });
  const text = `${summary.passed} passed, ${summary.failed} failed`;
  if (summary.failed > 0) {
    const message = `The tests of ${path.basename(dir)} fail: ${text}.`;
    // On a terminal they have been told line by line.
    throw new NoaError('INVALID_ARGUMENT', message, io.json() ? { details: summary } : {});
  }
  io.result(summary, text);
}

async function pack(dir: string, io: AuthorIo): Promise<void> {
  await readManifest(dir);
  const { file, bytes, sha256 } = await packPlugin(dir);
  const target = path.resolve(file);
  await replaceFile(target, bytes);
  const text = `${path.relative('.', target)}  ${size(bytes.length)}\nbundle  sha256:${sha256}`;
  io.result({ file: target, bytes: bytes.length, sha256 }, text);
}
