/**
 * A plugin from an npm registry, by npm's own client: registry, credentials and proxy are those of the
 * operator's npm configuration. Invariants: nothing of a package is run or unpacked to disk, and the
 * bytes are those whose SHA-512 the registry states.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import type { Session } from './session.ts';

const TIMEOUT_MS = 120_000;
const MAX_OUTPUT = 1 << 20;
/** No scripts ever; one more try of a registry that does not answer. */
const FLAGS = ['--json', '--ignore-scripts', '--no-update-notifier', '--fetch-retries=1'];
const SPEC =
  /^(?:npm:)?((?:@[a-z0-9][a-z0-9._~-]*\/)?[a-z0-9][a-z0-9._~-]*(?:@[\w.^~<>=*|+ -]{1,128})?)$/;
/** What npm takes for a path or a tarball of this machine, by its beginning or its end. */
const LOCAL = /@\.|\.(?:tgz|tar.gz|tar)(?:@|$)/i;

/** NAME[@VERSION] as npm takes it, of `npm:NAME[@VERSION]` or NAME[@VERSION]; undefined for a path. */
export function packageSpec(text: string): string | undefined {
  return LOCAL.test(text) ? undefined : SPEC.exec(text)?.[1];
}

/**
 * The package's tarball. Rejects with NoaError: NOT_FOUND when the registry has no such package or
 * version, INVALID_ARGUMENT when the bytes are not those that it states, UNAVAILABLE otherwise.
 */
export async function fetchPackage(spec: string, session: Session): Promise<Uint8Array> {
  const folder = await mkdtemp(join(tmpdir(), 'noa-npm-'));
  try {
    const packed = await npm(['pack', ...FLAGS, '--pack-destination', folder, '--', spec], session);
    const { name, version, filename } = entryOf(packed, spec);
    const bytes = await readFile(join(folder, filename));
    const stated = await npm(
      ['view', ...FLAGS, '--', `${name}@${version}`, 'dist.integrity'],
      session,
    );
    const integrity = `sha512-${createHash('sha512').update(bytes).digest('base64')}`;
    if (typeof stated !== 'string' || !stated.split(' ').includes(integrity)) {
      const message = `${name}@${version}: its SHA-512 is not the one that the registry states; it is damaged, or was changed on its way`;
      throw new NoaError('INVALID_ARGUMENT', message);
    }
    session.note(`${name}@${version}  ${integrity}`);
    return bytes;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface Packed {
  readonly name: string;
  readonly version: string;
  readonly filename: string;
}

function entryOf(answer: unknown, spec: string): Packed {
  const entry: unknown = Array.isArray(answer) ? answer[0] : answer;
  const { name, version, filename } = (entry ?? {}) as Partial<Packed>;
  if (typeof name === 'string' && typeof version === 'string' && typeof filename === 'string') {
    // npm 9 and older name the file of a scoped package as the package, with its slash.
    return { name, version, filename: filename.replace(/^@/, '').replaceAll('/', '-') };
  }
  throw new NoaError('UNAVAILABLE', `npm answered nothing that could be read for ${spec}`);
}

/** Runs npm and answers what it printed as JSON. */
async function npm(args: readonly string[], session: Session): Promise<unknown> {
  const kept = Object.entries(session.io.env).filter(([name]) => !name.startsWith('NOA_'));
  const options = {
    cwd: session.io.cwd,
    env: Object.fromEntries(kept),
    timeout: TIMEOUT_MS,
    maxBuffer: MAX_OUTPUT,
    signal: session.signal,
  };
  const { failure, stdout } = await new Promise<{ failure: Error | null; stdout: string }>(
    (resolve) =>
      execFile('npm', args, options, (error, out) => resolve({ failure: error, stdout: out })),
  );
  const printed = jsonOf(stdout);
  if (failure === null && printed !== undefined) return printed;
  if (session.signal.aborted) throw new NoaError('CANCELLED', 'interrupted');
  if (failure !== null && 'code' in failure && failure.code === 'ENOENT') {
    throw new NoaError('UNAVAILABLE', 'npm is not installed, and packages are fetched by it');
  }
  const { code = '', summary = '' } = errorOf(printed);
  const known = code === 'E404' || code === 'ETARGET' || code === 'ENOVERSIONS';
  const told = summary === '' ? (failure?.message ?? 'it printed nothing') : summary;
  const why = told.split('\n')[0];
  throw new NoaError(known ? 'NOT_FOUND' : 'UNAVAILABLE', `npm: ${code} ${why}`, {
    cause: failure,
  });
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // whoever asked says so
  }
}

function errorOf(printed: unknown): { code?: string; summary?: string } {
  if (typeof printed !== 'object' || printed === null || !('error' in printed)) return {};
  const { code, summary } = (printed.error ?? {}) as { code?: unknown; summary?: unknown };
  return {
    ...(typeof code === 'string' ? { code } : {}),
    ...(typeof summary === 'string' ? { summary } : {}),
  };
}
