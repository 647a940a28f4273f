/** The reference and the file of defaults, as text made from the table of keys. */
import { isKey, KEYS, type NamedKey, KEY_LIST, type Tree } from './keys.ts';
import type { Key } from './kinds.ts';

/** config/default.toml: every key with its default; a key without one stands as a comment. */
export function defaultsFile(): string {
  return [
    '# Every key with its default. config/README.md is the reference.',
    '# Generated from host/config/keys.ts by `node .ci/references.ts`; a test keeps it current.',
    ...section(KEYS, []),
    '',
  ].join('\n');
}

function* section(tree: Tree, above: readonly string[]): Generator<string> {
  const nodes = Object.entries(tree);
  const keys = nodes.filter((node): node is [string, Key<unknown>] => isKey(node[1]));
  if (keys.length > 0) {
    yield* ['', `[${above.join('.')}]`];
    for (const [name, key] of keys) {
      yield `# ${key.description}`;
      yield key.default === undefined
        ? `# ${name} = ${key.form ?? '"…"'}`
        : `${name} = ${JSON.stringify(key.default)}`;
    }
  }
  for (const [name, node] of nodes) if (!isKey(node)) yield* section(node, [...above, name]);
}

/** config/README.md. */
export function reference(): string {
  return `# Configuration

<!-- Generated from host/config/keys.ts by \`node .ci/references.ts\`; a test keeps it current. -->

Sources, highest first:

1. flags of \`noa serve\`;
2. the environment: \`NOA_SECTION__KEY\`, for example \`NOA_SERVER__PORT=8081\`; an empty variable counts as unset;
3. the file given with \`--config FILE\` or \`NOA_CONFIG\`;
4. \`config/{profile}.toml\` when \`--profile NAME\` or \`NOA_PROFILE\` names one;
5. \`config/default.toml\`.

Files 4 and 5 are looked for in the working folder, then in this package. Relative paths start at the
working folder. A key or \`NOA_\` variable that is not listed here is an error, and so is a value that
breaks its rule: \`noa config check\` names every fault with its place and its fix, \`noa config print
--origin\` shows every value and where it comes from.

A secret can be given by reference: \`env:NAME\` takes it from a variable, \`file:PATH\` from a file
(white space at its end is dropped). Secrets are never printed.

On SIGHUP a running host reads its configuration again and takes the keys marked *reload*; the others
need a restart.

The command line also reads \`NOA_URL\` and \`NOA_TOKEN\`: where a running host answers, and the bearer
token to show it; and \`NOA_CLIENT_SECRET\` for \`noa auth token\`.
${Object.keys(KEYS).map(sectionReference).join('')}`;
}

function sectionReference(name: string): string {
  const rows = KEY_LIST.filter(({ path }) => path.startsWith(`${name}.`)).map(row);
  return `
## ${name}

| key | must be | default | |
| --- | --- | --- | --- |
${rows.join('\n')}
`;
}

function row({ path, key }: NamedKey): string {
  const marks = [
    key.flag === undefined ? undefined : `\`--${key.flag}\``,
    key.secret === true ? '*secret*' : undefined,
    key.reloadable === true ? '*reload*' : undefined,
  ].filter((mark) => mark !== undefined);
  const given = key.default === undefined ? 'none' : `\`${key.default}\``;
  const description = [key.description, ...marks].join(' ').replaceAll('|', '\\|');
  return `| \`${path}\` | ${key.rule.replaceAll('|', '\\|')} | ${given} | ${description} |`;
}
