/** The TLS of the port as the configuration says it, and what the operator hears of its certificates. */
import { NoaError } from '@noa/sdk/host';
import type { Config } from './config.ts';
import { developmentCertificate } from './transports/port/development-certificate.ts';
import {
  type Certificate,
  type PortTls,
  readCertificate,
  type TlsFiles,
} from './transports/port/tls.ts';

interface Log {
  readonly info: (about: object, message: string) => void;
  readonly warn: (about: object, message: string) => void;
}

/** Undefined for cleartext. Rejects with INVALID_ARGUMENT in words for the operator. */
export async function openTls(
  settings: Config['server']['tls'],
  dataFolder: string,
  log: Log,
): Promise<PortTls | undefined> {
  const files = await filesOf(settings, dataFolder);
  if (files === undefined) return undefined;
  const certificate = await readCertificate(files);
  const about = { certificate: files.cert };
  if (settings.development) {
    const words = `TLS with a certificate that this host has made for itself, for development on this machine alone: clients trust it by the file ${files.cert}`;
    log.warn(about, words);
  }
  const warnOfExpiry = ({ expires }: Certificate): void => {
    if (expires.getTime() > Date.now()) return;
    log.warn({ ...about, expires }, 'the certificate has expired: clients refuse it');
  };
  warnOfExpiry(certificate);
  return {
    files,
    certificate,
    onRotated: (next) => {
      log.info({ ...about, expires: next.expires }, 'new connections get the new certificate');
      warnOfExpiry(next);
    },
    onRefused: (error) => {
      const why = error instanceof NoaError ? error.message : String(error);
      log.warn(about, `the certificate was not replaced, the old one stays: ${why}`);
    },
  };
}

async function filesOf(
  {
    cert_path: cert,
    key_path: key,
    client_ca_path: clientCa,
    development,
  }: Config['server']['tls'],
  dataFolder: string,
): Promise<TlsFiles | undefined> {
  if (development) return { ...(await developmentCertificate(dataFolder)), clientCa };
  return cert === undefined || key === undefined ? undefined : { cert, key, clientCa };
}
