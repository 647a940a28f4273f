/**
 * Texts of callers that become names, payloads and rows. Invariant: what passes here is the same text in every
 * engine: UTF-8 has no halves of a character, and PostgreSQL no NUL, so that one such text could be written by
 * the one engine and never be found again by the other.
 */
import { NoaError } from '@noa/sdk';

/** Throws INVALID_ARGUMENT with the place of a text, or of a name of a member, that some engine does not take. */
export function assertPlain(value: unknown, path: string): void {
  if (typeof value === 'string') {
    if (value.includes('\0')) throw wrong(path, 'holds a NUL character: leave it out');
    if (!value.isWellFormed()) throw wrong(path, 'holds half of a character: send whole ones');
  } else if (Array.isArray(value)) {
    for (const [i, each] of value.entries()) assertPlain(each, `${path}/${i}`);
  } else if (typeof value === 'object' && value !== null) {
    for (const [name, each] of Object.entries(value)) {
      assertPlain(name, `${path}: a name`);
      assertPlain(each, `${path}/${name}`);
    }
  }
}

function wrong(path: string, rule: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `${path}: ${rule}`);
}
