/** The product's version, from package.json, the one place where it is written. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

function read(): string {
  const parsed: unknown = JSON.parse(
    readFileSync(join(import.meta.dirname, '../package.json'), 'utf8'),
  );
  if (typeof parsed === 'object' && parsed !== null && 'version' in parsed)
    return String(parsed.version);
  throw new Error('package.json names no version');
}

export const VERSION: string = read();
