/**
 * One script out of a plugin's files, by esbuild, with its source map. Paths in it do not depend on
 * where the plugin's folder or this package lies, so the same files give the same bytes anywhere.
 */
import {
  decodedMappings,
  encodedMappings,
  type SourceMapSegment,
  TraceMap,
} from '@jridgewell/trace-mapping';
import { build, type Message, type Plugin } from 'esbuild';
import { existsSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NoaError } from '../errors.ts';
import { RENAMED } from '../stack.ts';
import { BUNDLE_NAME } from './machine.ts';

export interface Bundle {
  readonly code: string;
  /** Source map (ECMA-426) as JSON, without the sources' text. */
  readonly map: string;
  readonly warnings: readonly string[];
}

/** This very package: its root, and its built files. */
const SDK = fileURLToPath(new URL('../../', import.meta.url));
const BUILT = join(SDK, 'dist');

/** The line by which esbuild keeps a file that it runs late, under its path. */
const LATE_FILE = /^( +")(\.\.\/[^"\n]+)("\()/gm;

/** What guest/web.ts exports: injected where it is named, plainly or as a member of globalThis. */
const WEB = [
  'AbortController',
  'AbortSignal',
  'Event',
  'EventTarget',
  'Headers',
  'Response',
  'TextDecoder',
  'TextEncoder',
  'URL',
  'URLSearchParams',
  'fetch',
  'structuredClone',
] as const;

export async function bundle(dir: string, entry: string): Promise<Bundle> {
  if (!existsSync(join(dir, entry))) {
    throw new NoaError('INVALID_ARGUMENT', `${entry}: no such file in the plugin's folder ${dir}`);
  }
  const result = await build({
    stdin: {
      // The order matters: the globals must be there before any module of the plugin runs.
      contents: [
        `import ${JSON.stringify(join(BUILT, 'guest/globals.js'))};`,
        `import plugin from ${JSON.stringify(`./${entry}`)};`,
        `import { serve } from ${JSON.stringify(join(BUILT, 'guest/runtime.js'))};`,
        'serve(plugin);',
      ].join('\n'),
      resolveDir: dir,
      sourcefile: '@noa/sdk/entry',
    },
    absWorkingDir: dir,
    outfile: join(dir, BUNDLE_NAME),
    bundle: true,
    write: false,
    format: 'iife',
    target: 'es2023',
    platform: 'neutral',
    mainFields: ['browser', 'module', 'main'],
    conditions: ['worker', 'browser', 'module'],
    define: {
      'process.env.NODE_ENV': '"production"',
      ...Object.fromEntries(WEB.map((name) => [`globalThis.${name}`, name])),
    },
    inject: [join(BUILT, 'guest/web.js')],
    minifySyntax: true,
    charset: 'utf8',
    legalComments: 'none',
    sourcemap: 'external',
    sourcesContent: false,
    logLevel: 'silent',
    plugins: [resolver],
  }).catch((error: unknown) => {
    const { errors } = error as { errors?: Message[] };
    if (errors === undefined) throw error;
    throw new NoaError('INVALID_ARGUMENT', errors.map((message) => line(message, dir)).join('\n'));
  });
  const output = (suffix: string): string =>
    result.outputFiles.find((file) => file.path.endsWith(suffix))?.text ?? '';
  const code = output('.js');
  return {
    code: nameLateFiles(code, dir),
    map: portable(output('.map'), code, dir),
    warnings: result.warnings.map((message) => line(message, dir)),
  };
}

/** `src/index.ts:3:7: Expected ";" but found "}"`, with the line itself below. */
function line({ location, text, notes }: Message, dir: string): string {
  const waits = text.startsWith('Top-level await');
  const hint = waits ? '' : notes.map((note) => ` (${note.text})`).join('');
  const own = relative(dir, join(BUILT, 'index.js')).split(sep).join('/');
  const said = waits
    ? 'the top level cannot await, for it runs once, at build time: move this into a handler'
    : text.replace(
        `"${own}" for import`,
        '"@noa/sdk" (ports are in the second argument of a handler) for import',
      );
  if (location === null) return `${said}${hint}`;
  const { file, line: row, column, lineText } = location;
  return `${file}:${row}:${column + 1}: ${said}${hint}\n    ${lineText.trim()}`;
}

/** A file by a name that is the same wherever it was found. */
function portableName(source: string, dir: string): string {
  if (source.startsWith('@noa/sdk/')) return source;
  const path = resolve(dir, source).split(sep).join('/');
  const own = SDK.split(sep).join('/');
  if (path.startsWith(own)) return `@noa/sdk/${path.slice(own.length)}`;
  return /.*\/(node_modules\/.*)/.exec(path)?.[1] ?? source;
}

const nameLateFiles = (code: string, dir: string): string =>
  code.replaceAll(
    LATE_FILE,
    (_line, before: string, source: string, after: string) =>
      before + portableName(source, dir) + after,
  );

/**
 * The map of the plugin's own sources and those of its packages, named from the plugin's folder and from
 * `node_modules/`. Positions in this SDK have no source: their frames say nothing to an author.
 */
function portable(json: string, code: string, dir: string): string {
  const map = new TraceMap(json);
  const lines = code.split('\n');
  /** Where two files use one name, esbuild gives the second another, which stacks would then show. */
  const renamed: Record<string, string> = {};
  const kept: string[] = [];
  const places = map.sources.map((source) => {
    const name = portableName(source ?? '@noa/sdk/', dir);
    return name.startsWith('@noa/sdk/') ? -1 : kept.push(name) - 1;
  });
  const mappings = decodedMappings(map).map((segments, row) =>
    segments.map((segment): SourceMapSegment => {
      const [at, source = -1, line = 0, sourceColumn = 0, name = -1] = segment;
      const text = lines[row] ?? '';
      const longer = nameLateFiles(text, dir).length - text.length;
      const column = at > text.search(/\S/) ? at + longer : at;
      const place = places[source] ?? -1;
      if (place < 0) return [column];
      const original = map.names[name];
      const [written] = /^[\w$]+/.exec(text.slice(at)) ?? [];
      if (original && written && written !== original) renamed[written] = original;
      return [column, place, line, sourceColumn];
    }),
  );
  const own = new TraceMap({ version: 3, sources: kept, names: [], mappings });
  return JSON.stringify({
    version: 3,
    sources: kept,
    names: [],
    mappings: encodedMappings(own),
    [RENAMED]: renamed,
  });
}

const INSTEAD: { readonly [builtin: string]: string | undefined } = {
  fs: "keep data in the 'db' or 'cache' capability",
  crypto: 'use the global crypto.getRandomValues and crypto.randomUUID',
  buffer: 'use Uint8Array, TextEncoder and TextDecoder',
  http: "use the global fetch, with the 'http' capability",
  https: "use the global fetch, with the 'http' capability",
  process: "read settings from the handler's `config`",
  timers: 'use the global setTimeout',
  url: 'use the global URL',
  require: 'use import',
  util: 'use the global TextEncoder and structuredClone',
  perf_hooks: 'use the global performance',
};

/** What an author learns who names a module or a global of Node. */
export function noNode(name: string): string {
  const [root = name] = name.replace(/^node:/, '').split('/');
  const instead =
    INSTEAD[root.toLowerCase()] ?? 'use a package written for browsers or for all runtimes';
  return `'${name}' is a part of Node, where plugins do not run: ${instead}`;
}

/** Finds `@noa/sdk` wherever the plugin lies, and says what to use in place of Node's own modules. */
const resolver: Plugin = {
  name: 'noa',
  setup(esbuild) {
    esbuild.onResolve({ filter: /^@noa\/sdk$/ }, () => ({
      path: join(BUILT, 'index.js'),
      sideEffects: false,
    }));
    esbuild.onResolve({ filter: /^@noa\/sdk\// }, ({ path }) => ({
      errors: [{ text: `'${path}' is for hosts and tools: a plugin imports '@noa/sdk'` }],
    }));
    esbuild.onResolve({ filter: /^[a-z_:/]+$/ }, async ({ path, pluginData, ...options }) => {
      const name = path.replace(/^node:/, '');
      const [root = name] = name.split('/');
      if (pluginData === 'installed' || !builtinModules.includes(root)) return undefined;
      if (name === path) {
        // A package of that name may be installed.
        const found = await esbuild.resolve(path, { ...options, pluginData: 'installed' });
        if (found.errors.length === 0) return found;
      }
      return { errors: [{ text: noNode(path) }] };
    });
  },
};
