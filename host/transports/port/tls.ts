/**
 * The certificate of the port, read from files and read again when they change, without a connection lost.
 * Invariants: TLS 1.3 alone, before and after; a pair that does not fit or cannot be read replaces nothing.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext, type SecureContextOptions, type Server } from 'node:tls';
import { NoaError } from '@noa/sdk/host';

/** Where PEM files are. */
export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
  /** Authorities whose client certificates are required; absent: none is asked for. */
  readonly clientCa: string | undefined;
}

/** The `SecureContextOptions` of a certificate, and what tells it from another. */
export interface Certificate {
  readonly context: SecureContextOptions;
  readonly fingerprint: string;
}

/** How often the files are looked at: less than what any authority leaves between two certificates. */
const POLL_MS = 2000;

/** Rejects with INVALID_ARGUMENT in words for the operator. */
export async function readCertificate({ cert, key, clientCa }: TlsFiles): Promise<Certificate> {
  const [chain, secret, authorities] = await Promise.all([
    read('server.tls.cert_path', cert),
    read('server.tls.key_path', key),
    clientCa === undefined ? undefined : read('server.tls.client_ca_path', clientCa),
  ]);
  // Said each time: Node would take TLS 1.2 again with the next certificate.
  const context: SecureContextOptions = { cert: chain, key: secret, minVersion: 'TLSv1.3' };
  if (authorities !== undefined) context.ca = authorities;
  try {
    createSecureContext(context);
  } catch (cause) {
    const reason = cause instanceof Error && 'code' in cause ? ` (${String(cause.code)})` : '';
    const rule = `server.tls: ${cert} and ${key} are no certificate and its key${reason}`;
    throw new NoaError('INVALID_ARGUMENT', `${rule}: give the PEM files of one pair`, { cause });
  }
  const digest = createHash('sha256');
  for (const bytes of [chain, secret, authorities]) digest.update(bytes ?? '').update('\0');
  return { context, fingerprint: digest.digest('hex') };
}

async function read(name: string, file: string): Promise<Buffer> {
  return readFile(file).catch((cause: unknown) => {
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown';
    const rule = `${name}: ${file} cannot be read (${reason}); name a PEM file that this user may read`;
    throw new NoaError('INVALID_ARGUMENT', rule, { cause });
  });
}

export interface RotationOptions {
  readonly files: TlsFiles;
  /** What the server has. */
  readonly current: Certificate;
  readonly server: Server;
  readonly onRotated: () => void;
  /** Told once for each content that cannot be used. */
  readonly onRefused: (error: unknown) => void;
}

/** Follows the files until it is stopped. */
export class Rotation {
  readonly #options: RotationOptions;
  readonly #timer: NodeJS.Timeout;
  #present: string;
  #refused = '';
  #looking: Promise<void> | undefined;

  constructor(options: RotationOptions) {
    this.#options = options;
    this.#present = options.current.fingerprint;
    this.#timer = setInterval(() => void this.look(), POLL_MS).unref();
  }

  /** Takes what the files hold now. Never rejects. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => (this.#looking = undefined));
    return this.#looking;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    const { files, server, onRotated, onRefused } = this.#options;
    try {
      const { context, fingerprint } = await readCertificate(files);
      this.#refused = '';
      if (fingerprint === this.#present) return;
      server.setSecureContext(context);
      this.#present = fingerprint;
      onRotated();
    } catch (error) {
      // The old one serves on, and half-written files are whole the next time.
      const reason = error instanceof Error ? error.message : String(error);
      if (reason !== this.#refused) onRefused(error);
      this.#refused = reason;
    }
  }
}
