/**
 * The files of a new plugin in a language that has a compiler of its own: the same counter of hits, with a
 * test of the built module under the host's loader.
 */
import type { Language } from './language.ts';
import { json, manifest, type Versions } from './template.ts';

/** Where a new plugin finds what it builds with, from its own folder. */
export interface SdkPaths {
  /** The packages of `noa`, and of the SDK that runs the tests. */
  readonly tools: Versions;
  /** The folder of the language's SDK. */
  readonly folder: string;
}

/** Text by path. */
export function compiledTemplate(
  name: string,
  language: Exclude<Language, 'ts'>,
  sdk: SdkPaths,
): Readonly<Record<string, string>> {
  const { files, build, ignored } = SOURCES[language](name, sdk.folder);
  return {
    'plugin.json': json({
      $schema: './node_modules/@noa/sdk/dist/plugin.schema.json',
      ...manifest(name),
    }),
    ...files,
    [`test/${name}.test.ts`]: TEST.replaceAll('NAME', name),
    'package.json': json({
      name,
      version: '0.1.0',
      private: true,
      type: 'module',
      scripts: { build: 'noa plugin build', test: 'noa plugin test', pack: 'noa plugin pack' },
      devDependencies: { ...sdk.tools, ...build },
    }),
    '.gitignore': `dist/\nnode_modules/\n*.tgz\n${ignored}`,
    'README.md': README.replaceAll('NAME', name).replace('SOURCE', Object.keys(files)[0] ?? ''),
  };
}

interface Source {
  /** The first is the one to begin reading with. */
  readonly files: Readonly<Record<string, string>>;
  /** Packages that the compiler needs. */
  readonly build?: Readonly<Record<string, string>>;
  readonly ignored: string;
}

const SOURCES: {
  readonly [language in Exclude<Language, 'ts'>]: (name: string, sdk: string) => Source;
} = {
  rust: (name, sdk) => ({
    files: {
      'src/lib.rs': RUST.replaceAll('NAME', name),
      'Cargo.toml': CARGO.replaceAll('NAME', name).replace('SDK', sdk),
    },
    ignored: 'target/\n',
  }),
  c: (name, sdk) => ({
    files: {
      [`src/${name}.c`]: C.replaceAll('NAME', name),
      // For editors: clangd reads it.
      'compile_flags.txt': `--target=wasm32\n-std=c11\n-ffreestanding\n-I${sdk}\n`,
    },
    ignored: '',
  }),
  as: (name, sdk) => ({
    files: {
      'src/index.ts': ASSEMBLYSCRIPT.replaceAll('NAME', name),
      'asconfig.json': json(ASCONFIG),
      'src/tsconfig.json': json({
        extends: '../node_modules/assemblyscript/std/assembly.json',
        include: ['./**/*.ts'],
      }),
    },
    build: { '@noa/assemblyscript': `file:${sdk}`, assemblyscript: '^0.28.0' },
    ignored: '',
  }),
};

const RUST = `//! Counts hits of pages in the cache.

use noa_sdk::{cache, log, object, Error, Value};

noa_sdk::export!(hit, read);

fn key(page: &str) -> String {
    format!("NAME:hits:{}", page)
}

fn hit(input: Value) -> Result<Value, Error> {
    let page = input.text("page")?;
    let hits = cache::increment(&key(page), 1.0, None)?;
    log::info(&format!("hit of {}", page));
    Ok(object! { "page": page, "hits": hits })
}

fn read(input: Value) -> Result<Value, Error> {
    let page = input.text("page")?;
    let hits = cache::get(&key(page))?.unwrap_or(Value::Number(0.0));
    Ok(object! { "page": page, "hits": hits })
}
`;

const CARGO = `[package]
name = "NAME"
version = "0.1.0"
edition = "2021"
publish = false

[lib]
crate-type = ["cdylib"]

[dependencies]
noa-sdk = { path = "SDK" }

[profile.release]
opt-level = "s"
lto = true
codegen-units = 1
panic = "abort"
strip = true
`;

const C = `/* Counts hits of pages in the cache. */
#include <noa.h>

/* The arguments of a cache operation on the page's counter. */
static noa_value *counter(noa_text page) {
  return noa_set_text(noa_object(), "key", noa_format("NAME:hits:%t", page));
}

static noa_value *answer(noa_text page, noa_value *hits) {
  return noa_set(noa_set_text(noa_object(), "page", page), "hits", hits);
}

NOA_EXPORT(hit, input) {
  noa_text page = noa_string(noa_get(input, "page"));
  noa_value *value = noa_call("cache", "increment", counter(page));
  if (value == NULL) return NULL;
  noa_log(NOA_INFO, noa_format("hit of %t", page));
  return answer(page, noa_get(value, "value"));
}

NOA_EXPORT(read, input) {
  noa_text page = noa_string(noa_get(input, "page"));
  noa_value *value = noa_call("cache", "get", counter(page));
  if (value == NULL) return NULL;
  return answer(page, noa_from_number(noa_number(noa_get(value, "value"))));
}
`;

const ASSEMBLYSCRIPT = `/** Counts hits of pages in the cache. */
import { Value, cache, log, object, run } from '@noa/assemblyscript';

function key(page: string): string {
  return 'NAME:hits:' + page;
}

export function hit(): i32 {
  return run((input: Value): Value => {
    const page = input.get('page').text();
    const hits = cache.increment(key(page));
    log.info('hit of ' + page);
    return object().set('page', Value.of(page)).set('hits', Value.number(hits));
  });
}

export function read(): i32 {
  return run((input: Value): Value => {
    const page = input.get('page').text();
    const hits = cache.get(key(page));
    return object()
      .set('page', Value.of(page))
      .set('hits', hits.isNull() ? Value.number(0) : hits);
  });
}
`;

/** With a shrinkLevel above 0 the compiler's library joins strings in quadratic time. */
const ASCONFIG = {
  options: {
    runtime: 'minimal',
    exportRuntime: false,
    optimizeLevel: 3,
    shrinkLevel: 0,
    noAssert: false,
    use: 'abort=~lib/@noa/assemblyscript/error/abort',
  },
};

const TEST = `/** The built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestHost } from '@noa/sdk/testing';

const folder = new URL('..', import.meta.url);

describe('NAME', () => {
  let host: Awaited<ReturnType<typeof createTestHost>>;

  before(async () => {
    host = await createTestHost({ folder });
  });
  after(() => host.close());

  test('hit counts, read does not', async () => {
    const home = { page: 'hömè' };
    assert.deepEqual(await host.callUnchecked('hit', home), { ...home, hits: 1 });
    assert.deepEqual(await host.callUnchecked('hit', home), { ...home, hits: 2 });
    assert.deepEqual(await host.callUnchecked('read', home), { ...home, hits: 2 });
    assert.deepEqual(await host.callUnchecked('read', { page: 'new' }), { page: 'new', hits: 0 });
    assert.equal(host.log.at(-1)?.message, 'hit of hömè');
  });

  test('without its grant the caller is told which right is missing', async () => {
    host.deny('cache.increment');
    await assert.rejects(host.callUnchecked('hit', { page: 'home' }), { code: 'CAPABILITY_DENIED' });
    host.allow('cache.increment');
  });

  test('an input that breaks the schema never reaches the plugin', async () => {
    await assert.rejects(host.callUnchecked('hit', { page: '' }), { code: 'INVALID_ARGUMENT' });
  });
});
`;

const README = `# NAME

A NOA plugin that counts hits of pages: \`POST /plugins/NAME/hits/:page\` counts one, \`GET /plugins/NAME/hits/:page\` reads.

- \`plugin.json\`: what it offers, and the rights it asks for
- \`SOURCE\`: its exports
- \`test/\`: its tests, of the built module

\`noa\` below is \`npx noa\` in this folder. The last three talk to a host: set \`NOA_TOKEN\`, or \`NOA_DATA__PATH\` to the data folder (\`.noa\` where the host was started).

\`\`\`sh
noa plugin build
noa plugin test
noa plugin pack            # NAME-0.1.0.tgz
noa plugin install .       # shows what it asks for, grants nothing
noa grant approve NAME --all
noa plugin call NAME hit '{"page": "home"}'
\`\`\`
`;
