/**
 * What is asked of an upstream. Invariant: the path that was matched is the path that is sent, byte for
 * byte but for the prefix, and no common server reads it as one outside of the prefix.
 */
import { NoaError } from '@noa/sdk/host';

const MAX_ENCODINGS = 4;

/**
 * The path and query below an upstream. `target` is in origin form (RFC 9112 section 3.2.1), its path one
 * that `prefix` matches. Throws INVALID_ARGUMENT.
 */
export function targetBelow(target: string, prefix: string, strip: boolean): string {
  const query = target.indexOf('?');
  const path = query < 0 ? target : target.slice(0, query);
  if (hidesDotSegment(path)) {
    const rule = 'the path must not hold or hide a "." or ".." segment';
    throw new NoaError('INVALID_ARGUMENT', rule);
  }
  if (!strip || prefix === '/') return target;
  const below = target.slice(prefix.length);
  return below.startsWith('/') ? below : `/${below}`;
}

/**
 * Servers decode `%2f`, `%5c` and `%2e`, some of them twice, or cut what follows a `;`, and resolve dot
 * segments after that: `/orders/..%2fadmin` is `/admin` to them.
 */
function hidesDotSegment(path: string): boolean {
  let text = path;
  for (let round = 0; round <= MAX_ENCODINGS; round += 1) {
    if (/(^|[/\\])\.{1,2}([/\\;]|$)/.test(text)) return true;
    if (!text.includes('%')) return false;
    const decoded = decode(text);
    if (decoded === text) return false;
    text = decoded;
  }
  return true;
}

/** A path as the most generous of servers reads it: decoded, without parameters and empty segments. */
export function plainPath(path: string): string {
  if (!/[%;\\]|\/\//.test(path)) return path;
  let text = path;
  for (let round = 0; round <= MAX_ENCODINGS && text.includes('%'); round += 1) text = decode(text);
  return text.replaceAll(/[;?#][^/\\]*/g, '').replaceAll(/[/\\]+/g, '/');
}

function decode(text: string): string {
  return text.replaceAll(/%([0-9a-f]{2})/gi, (_match, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
}
