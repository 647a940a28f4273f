/**
 * The certificate of the port, read from files and read again when they change, without a connection lost.
 * Invariants: TLS 1.3 alone, before and after; a pair that does not fit or cannot be read replaces nothing.
 */
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
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

export interface Certificate {
  /** Whole: what is not said again with a new certificate, Node takes back to its defaults. */
  readonly context: SecureContextOptions;
  /** Tells one content of the files from another. */
  readonly digest: string;
  readonly expires: Date;
}

/** How the port speaks TLS. */
export interface PortTls {
  readonly files: TlsFiles;
  /** What the files held at the start. */
  readonly certificate: Certificate;
  readonly onRotated: (certificate: Certificate) => void;
  /** Told once for each content that cannot be used. */
  readonly onRefused: (error: unknown) => void;
}

/** How often the files are looked at: reading finds every way of replacing them, links and mounts included. */
const POLL_MS = 2000;

/** Rejects with INVALID_ARGUMENT in words for the operator. */
export async function readCertificate({ cert, key, clientCa }: TlsFiles): Promise<Certificate> {
  const [chain, secret, authorities] = await Promise.all([
    read('server.tls.cert_path', cert),
    read('server.tls.key_path', key),
    clientCa === undefined ? undefined : read('server.tls.client_ca_path', clientCa),
  ]);
  const leaf = parse('server.tls.cert_path', cert, () => new X509Certificate(chain));
  const own = parse('server.tls.key_path', key, () => createPrivateKey(secret));
  if (!leaf.checkPrivateKey(own)) {
    const rule = `server.tls: ${key} is not the key of the certificate in ${cert}`;
    throw new NoaError('INVALID_ARGUMENT', `${rule}: name the two files of one pair`);
  }
  const context: SecureContextOptions = { cert: chain, key: secret, minVersion: 'TLSv1.3' };
  if (authorities !== undefined && clientCa !== undefined) {
    parse('server.tls.client_ca_path', clientCa, () => new X509Certificate(authorities));
    context.ca = authorities;
  }
  parse('server.tls.cert_path', cert, () => createSecureContext(context)); // the whole chain
  const digest = createHash('sha256');
  for (const bytes of [chain, secret, authorities]) digest.update(bytes ?? '').update('\0');
  return { context, digest: digest.digest('hex'), expires: leaf.validToDate };
}

async function read(name: string, file: string): Promise<Buffer> {
  return readFile(file).catch((cause: unknown) => {
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown';
    const rule = `${name}: ${file} cannot be read (${reason})`;
    throw new NoaError('INVALID_ARGUMENT', `${rule}: name a PEM file that this user may read`);
  });
}

function parse<T>(name: string, file: string, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    const reason = cause instanceof Error && 'code' in cause ? ` (${String(cause.code)})` : '';
    const rule = `${name}: ${file} does not hold what it should in PEM form${reason}`;
    throw new NoaError('INVALID_ARGUMENT', `${rule}: write the whole file again`, { cause });
  }
}

/** Follows the files until it is stopped. */
export class Rotation {
  readonly #server: Server;
  readonly #tls: PortTls;
  readonly #timer: NodeJS.Timeout;
  #present: string;
  #refused = '';
  #looking: Promise<void> | undefined;

  constructor(server: Server, tls: PortTls) {
    this.#server = server;
    this.#tls = tls;
    this.#present = tls.certificate.digest;
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
    const { files, onRotated, onRefused } = this.#tls;
    try {
      const certificate = await readCertificate(files);
      this.#refused = '';
      if (certificate.digest === this.#present) return;
      this.#server.setSecureContext(certificate.context);
      this.#present = certificate.digest;
      onRotated(certificate);
    } catch (error) {
      // The old one serves on, and half-written files are whole the next time.
      const reason = error instanceof Error ? error.message : String(error);
      if (reason !== this.#refused) onRefused(error);
      this.#refused = reason;
    }
  }
}
