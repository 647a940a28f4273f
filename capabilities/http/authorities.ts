/** Certificate authorities of the operator's own, for servers inside his network. */
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { NoaError } from '@noa/sdk/host';

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** The certificates of a PEM file. Throws INVALID_ARGUMENT that names the setting. */
export function readAuthorities(path: string, setting = 'plugins.http_ca_path'): string[] {
  try {
    const found = readFileSync(path, 'utf8').match(CERTIFICATE) ?? [];
    if (found.length === 0) throw new Error('it holds no certificate');
    for (const pem of found) {
      if (!new X509Certificate(pem).ca) throw new Error('a certificate in it is no authority’s');
    }
    return found;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const text = `${setting}: ${path} must be a PEM file of certificate authorities: ${why}`;
    throw new NoaError('INVALID_ARGUMENT', text, { cause });
  }
}
