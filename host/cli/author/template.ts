/** The files of a new plugin in TypeScript: a counter of hits, which uses one capability, two routes and both kinds of test. */
import type { Manifest } from '@noa/sdk/host';

/** Versions of packages by their names, for package.json. */
export type Versions = Readonly<Record<string, string>>;

/** Text by path. `tools` are the packages of the SDK and of `noa`. */
export function template(name: string, tools: Versions): Readonly<Record<string, string>> {
  return {
    'plugin.json': json({
      $schema: './node_modules/@noa/sdk/dist/plugin.schema.json',
      ...manifest(name),
    }),
    'src/index.ts': SOURCE.replaceAll('NAME', name),
    [`test/${name}.test.ts`]: TEST.replaceAll('NAME', name),
    'tsconfig.json': json(TSCONFIG),
    'test/tsconfig.json': json(TEST_TSCONFIG),
    'package.json': json({
      name,
      version: '0.1.0',
      private: true,
      type: 'module',
      scripts: {
        build: 'noa plugin build',
        test: 'noa plugin test',
        dev: 'noa plugin dev',
        pack: 'noa plugin pack',
      },
      devDependencies: { ...tools, '@types/node': '^24.0.0', typescript: '^7.0.0' },
    }),
    '.gitignore': 'dist/\nnode_modules/\n*.tgz\n',
    'README.md': README.replaceAll('NAME', name),
  };
}

export function manifest(name: string): Manifest {
  const page = {
    type: 'object',
    properties: { page: { type: 'string', minLength: 1, maxLength: 200 } },
    required: ['page'],
    additionalProperties: false,
  };
  const hits = {
    type: 'object',
    properties: { page: { type: 'string' }, hits: { type: 'integer' } },
    required: ['page', 'hits'],
  };
  return {
    name,
    version: '0.1.0',
    description: 'Counts hits of pages.',
    noa: '^1.1.0',
    runtime: { kind: 'wasm', file: `dist/${name}.wasm` },
    exports: {
      hit: { input: page, output: hits },
      read: { input: page, output: hits, idempotent: true },
    },
    contributes: {
      routes: [
        { method: 'POST', path: '/hits/:page', export: 'hit' },
        { method: 'GET', path: '/hits/:page', export: 'read' },
      ],
    },
    capabilities: [
      {
        capability: 'cache',
        operations: ['get', 'increment'],
        resources: [`${name}:hits:*`],
        reason: 'Keeps the count of each page.',
      },
    ],
  };
}

const SOURCE = `/** Counts hits of pages in the cache. */
import { definePlugin } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

const key = (page: string): string => \`NAME:hits:\${page}\`;

export default definePlugin<Plugin>({
  async hit({ page }, { cache, log }) {
    const hits = await cache.increment(key(page));
    log.info('hit', { page, hits });
    return { page, hits };
  },

  async read({ page }, { cache }) {
    return { page, hits: (await cache.get<number>(key(page))) ?? 0 };
  },
});
`;

const TEST = `/** The plugin as handlers in this process, and as the built module under the host's loader. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createTestHost, type TestHost } from '@noa/sdk/testing';
import plugin from '../src/index.ts';
import type { Plugin } from '../src/noa.gen.ts';

const folder = new URL('..', import.meta.url);

for (const level of ['handlers', 'module']) {
  describe(\`NAME, as \${level}\`, () => {
    let host: TestHost<Plugin>;

    before(async () => {
      host = await createTestHost<Plugin>(level === 'handlers' ? { folder, plugin } : { folder });
    });
    after(() => host.close());

    test('hit counts, read does not', async () => {
      assert.deepEqual(await host.call('hit', { page: 'home' }), { page: 'home', hits: 1 });
      assert.deepEqual(await host.call('hit', { page: 'home' }), { page: 'home', hits: 2 });
      assert.deepEqual(await host.call('read', { page: 'home' }), { page: 'home', hits: 2 });
      assert.deepEqual(await host.call('read', { page: 'new' }), { page: 'new', hits: 0 });
    });

    test('without its grant the caller is told which right is missing', async () => {
      host.deny('cache.increment');
      await assert.rejects(host.call('hit', { page: 'home' }), { code: 'CAPABILITY_DENIED' });
      host.allow('cache.increment');
    });

    test('an input that breaks the schema never reaches the plugin', async () => {
      await assert.rejects(host.callUnchecked('hit', { page: '' }), { code: 'INVALID_ARGUMENT' });
    });
  });
}
`;

const TSCONFIG = {
  compilerOptions: {
    target: 'es2023',
    lib: ['es2024'],
    module: 'nodenext',
    types: ['@noa/sdk/globals'],
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    verbatimModuleSyntax: true,
    erasableSyntaxOnly: true,
    allowImportingTsExtensions: true,
    noEmit: true,
    skipLibCheck: true,
  },
  include: ['src'],
};

/** Tests run in Node, handlers do not. */
const TEST_TSCONFIG = {
  extends: '../tsconfig.json',
  compilerOptions: { types: ['node'] },
  include: ['.'],
};

const README = `# NAME

A NOA plugin that counts hits of pages: \`POST /plugins/NAME/hits/:page\` counts one, \`GET /plugins/NAME/hits/:page\` reads.

- \`plugin.json\`: what it offers, and the rights it asks for
- \`src/index.ts\`: its handlers; \`src/noa.gen.ts\` is made from plugin.json
- \`test/\`: its tests

\`noa\` below is \`npx noa\` in this folder. The last three talk to a host: set \`NOA_TOKEN\`, or \`NOA_DATA__PATH\` to the data folder (\`.noa\` where the host was started).

\`\`\`sh
noa plugin dev             # build and test after each change
noa plugin build
noa plugin test
noa plugin pack            # NAME-0.1.0.tgz
noa plugin install .       # shows what it asks for, grants nothing
noa grant approve NAME --all
noa plugin call NAME hit '{"page": "home"}'
\`\`\`
`;

export function json(value: object): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
