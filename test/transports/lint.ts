/** Two linters of others, as their users run them. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const BIN = join(import.meta.dirname, '../../node_modules/.bin');
const run = promisify(execFile);

interface Redocly {
  readonly problems: readonly { readonly ruleId: string; readonly message: string }[];
}

interface Spectral {
  readonly code: string;
  readonly message: string;
  readonly path: readonly string[];
}

/** Everything that they find in an OpenAPI document by the rules that they recommend, hints included. */
export async function lint(document: object): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), 'noa-openapi-'));
  try {
    const file = join(folder, 'openapi.json');
    await writeFile(file, JSON.stringify(document));
    await writeFile(join(folder, '.spectral.yaml'), 'extends: ["spectral:oas"]\n');
    const start = async (tool: string, ...parameters: string[]): Promise<string> => {
      const env = {
        PATH: `${BIN}:/usr/bin:/bin`,
        HOME: folder,
        REDOCLY_TELEMETRY: 'off',
        REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true',
      };
      const lints = run(join(BIN, tool), ['lint', file, '--format=json', ...parameters], {
        cwd: folder,
        env,
        maxBuffer: 64 << 20,
      });
      // With findings it fails, and they are what it printed.
      return (await lints.catch((failure: { stdout: string }) => failure)).stdout;
    };
    const redocly = JSON.parse(await start('redocly', '--extends=recommended')) as Redocly;
    const text = await start('spectral', '--fail-severity=hint', '--quiet');
    const spectral = JSON.parse(text) as Spectral[];
    return [
      ...redocly.problems.map(({ ruleId, message }) => `redocly ${ruleId}: ${message}`),
      ...spectral.map(
        ({ code, message, path }) => `spectral ${code}: ${message} ${path.join('.')}`,
      ),
    ];
  } finally {
    await rm(folder, { recursive: true });
  }
}
