/** Runs a plugin's tests in a process of their own, with the host's real loader at hand. */
import { spawn } from 'node:child_process';
import { globSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { NoaError } from '@noa/sdk/host';

export interface TestSummary {
  readonly tests: number;
  readonly passed: number;
  readonly failed: number;
  /** Names of the failed tests and of the suites around them. */
  readonly failures: readonly string[];
  readonly milliseconds: number;
}

/** No test file may take longer. */
const TIMEOUT_MS = 120_000;
const PRELOAD = new URL('./test-preload.ts', import.meta.url).href;

/**
 * Runs `test/**\/*.test.ts`. The report goes to this process's own output when `show` is true. Throws
 * NoaError NOT_FOUND when there is no test.
 */
export async function runTests(
  dir: string,
  options: { show: boolean; signal?: AbortSignal },
): Promise<TestSummary> {
  const files = globSync('test/**/*.test.ts', { cwd: dir });
  if (files.length === 0) {
    throw new NoaError(
      'NOT_FOUND',
      `There is no test/*.test.ts in ${dir}. Write one: see noa plugin new.`,
    );
  }
  const reporters = options.show
    ? ['--test-reporter=spec', '--test-reporter-destination=stdout']
    : [];
  const args = [
    `--import=${PRELOAD}`,
    '--disable-warning=ExperimentalWarning',
    '--test',
    '--test-force-exit',
    `--test-timeout=${TIMEOUT_MS}`,
    ...reporters,
    '--test-reporter=tap',
    '--test-reporter-destination=stderr',
    ...files.toSorted(),
  ];
  const child = spawn(process.execPath, args, {
    cwd: dir,
    stdio: ['ignore', options.show ? 'inherit' : 'ignore', 'pipe'],
    ...(options.signal && { signal: options.signal }),
  });
  const exited = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', resolve);
  });
  const [code, report] = await Promise.all([exited, text(child.stderr)]);
  const count = (name: string): number =>
    Number(new RegExp(`^# ${name} ([\\d.]+)$`, 'm').exec(report)?.[1] ?? NaN);
  const tests = count('tests');
  if (Number.isNaN(tests)) {
    throw new NoaError('INTERNAL', `The test runner ended with ${String(code)}: ${report.trim()}`);
  }
  const passed = count('pass');
  const failed = code === 0 ? 0 : Math.max(1, tests - passed);
  const failures = [...report.matchAll(/^\s*not ok \d+ - (.*)$/gm)].map(([, name]) => String(name));
  return { tests, passed, failed, failures, milliseconds: Math.round(count('duration_ms')) };
}
