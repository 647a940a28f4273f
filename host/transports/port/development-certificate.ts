/**
 * A certificate for this machine alone, made at first use in the data folder (`server.tls.development`):
 * for trying TLS, not for serving others, for nobody vouches for it.
 */
import { X509Certificate } from 'node:crypto';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { TlsFiles } from './tls.ts';

const DAYS = 365;
/** One that expires within this time is made anew. */
const RENEW_MS = 7 * 86_400_000;
const NAMES = [
  { type: 2, value: 'localhost' },
  { type: 7, ip: '127.0.0.1' },
  { type: 7, ip: '::1' },
] as const;

/** The files of a certificate that will do for a while; they are made when there are none. */
export async function developmentCertificate(dataFolder: string): Promise<TlsFiles> {
  const folder = join(dataFolder, 'tls');
  const files = {
    cert: join(folder, 'development.crt'),
    key: join(folder, 'development.key'),
    clientCa: undefined,
  };
  if (await isGood(files)) return files;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const { generate } = await import('selfsigned'); // a tenth of a second that nobody else waits for
  const pair = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    notAfterDate: new Date(Date.now() + DAYS * 86_400_000),
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames: [...NAMES] },
    ],
  });
  // The key first: a certificate without its key would be taken for a good one.
  await replace(files.key, pair.private);
  await replace(files.cert, pair.cert);
  return files;
}

/** Whether there is a pair that will do for a while. */
async function isGood({ cert, key }: TlsFiles): Promise<boolean> {
  try {
    const certificate = new X509Certificate(await readFile(cert));
    await readFile(key);
    return Date.parse(certificate.validTo) - Date.now() > RENEW_MS;
  } catch {
    return false; // absent or damaged: it is made anew
  }
}

async function replace(file: string, text: string): Promise<void> {
  const draft = `${file}.new`;
  const handle = await open(draft, 'w', 0o600);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(draft, file);
}
