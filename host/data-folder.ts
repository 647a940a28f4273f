/**
 * The data folder: held by one host at a time, and home of the secrets made at first start. Invariant:
 * a secret file is whole or absent, and only its owner can read it.
 */
import { randomBytes } from 'node:crypto';
import { access, constants, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { takeLock } from './data-folder/lock.ts';

export interface DataFolder {
  /** Absolute. */
  readonly path: string;
  /** Names this host in the audit log; made once for a folder. */
  readonly hostId: string;
  /** The configured token, else the folder's own; `made` is true for the start that makes it. */
  bootstrapToken(configured: string | undefined): Promise<{ token: string; made: boolean }>;
  /** The configured key in base64, else the folder's own. At least 32 bytes. */
  rootKey(configured: string | undefined): Promise<Uint8Array>;
  /** Lets another host take the folder. Idempotent. */
  release(): Promise<void>;
}

const TOKEN_FILE = 'bootstrap-token';
const KEY_FILE = 'root-key';
const ID_FILE = 'host-id';

/**
 * Makes the folder when it is absent and takes its lock; a lock that a killed host left is taken over.
 * Rejects with NoaError, in one line for the operator: INVALID_ARGUMENT (not a folder), UNAVAILABLE (not
 * writable), CONFLICT (another host has it). `onNotice` hears what the operator should know meanwhile.
 */
export async function openDataFolder(
  path: string,
  onNotice: (text: string) => void,
): Promise<DataFolder> {
  await prepare(path);
  const lock = await takeLock(path, onNotice);
  try {
    const hostId = await once(path, ID_FILE, /^[\w-]{16,}$/, () =>
      randomBytes(12).toString('base64url'),
    );
    return {
      path,
      hostId: hostId.text,
      bootstrapToken: async (configured) => {
        if (configured !== undefined) return { token: configured, made: false };
        const { text, made } = await once(path, TOKEN_FILE, /^\S{32,}$/, () => {
          return randomBytes(32).toString('base64url');
        });
        return { token: text, made };
      },
      rootKey: async (configured) => {
        const key = async () => {
          const pattern = /^[A-Za-z0-9+/_-]{43,}={0,2}$/;
          return (await once(path, KEY_FILE, pattern, () => randomBytes(32).toString('base64')))
            .text;
        };
        return Buffer.from(configured ?? (await key()), 'base64');
      },
      release: () => lock.release(),
    };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/** The token that a host on this folder made, for the command line; undefined when it cannot be read. */
export async function readBootstrapToken(path: string): Promise<string | undefined> {
  try {
    return (await readFile(join(path, TOKEN_FILE), 'utf8')).trim();
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ENOTDIR'].includes(codeOf(error))) return undefined;
    throw error;
  }
}

async function prepare(path: string): Promise<void> {
  // As root, PostgreSQL runs as another user and must pass through to its own folder.
  const mode = process.getuid?.() === 0 ? 0o711 : 0o700;
  try {
    if (!(await exists(path))) {
      await mkdir(dirname(path), { recursive: true });
      await mkdir(path, { mode }).catch((error: unknown) => {
        if (codeOf(error) !== 'EEXIST') throw error; // made by another starter just now
      });
    }
    if (!(await stat(path)).isDirectory()) throw Object.assign(new Error(), { code: 'ENOTDIR' });
    await access(path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (cause) {
    const code = codeOf(cause);
    if (code === 'ENOTDIR' || code === 'EEXIST') {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `data.path ${path} is not a folder; remove that file, or set data.path to another place`,
        { cause },
      );
    }
    throw new NoaError(
      'UNAVAILABLE',
      `data.path ${path} cannot be written (${code}); give this user the right, or set data.path to another place`,
      { cause },
    );
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** The content of a file of the folder; made, synced and renamed into place when it is absent. */
async function once(
  folder: string,
  name: string,
  pattern: RegExp,
  make: () => string,
): Promise<{ text: string; made: boolean }> {
  const path = join(folder, name);
  const present = await readFile(path, 'utf8').catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (present !== undefined) {
    const text = present.trim();
    if (pattern.test(text)) return { text, made: false };
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${path} is damaged; restore it, or delete it to have a new one made`,
    );
  }
  const text = make();
  const draft = `${path}.new`;
  await rm(draft, { force: true });
  const file = await open(draft, 'wx', 0o600);
  try {
    await file.writeFile(`${text}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(draft, path);
  await syncFolder(folder);
  return { text, made: true };
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}
