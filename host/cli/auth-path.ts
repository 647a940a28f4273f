/** Names that a user typed, in paths. */
import { NoaError } from '@noa/sdk/host';

/** Throws INVALID_ARGUMENT for what cannot be one segment of a path. */
export function segment(text: string): string {
  if (text !== '' && text !== '.' && text !== '..') return encodeURIComponent(text);
  throw new NoaError('INVALID_ARGUMENT', `${JSON.stringify(text)} names nothing`);
}
