/** Hosts of the WHATWG URL standard (section 3.5): domains, IPv4, IPv6 and opaque hosts. */
import { percentDecode, percentEncode } from './url-percent.ts';

const FORBIDDEN = /[\0\t\n\r #/:<>?@[\\\]^|]/;
const FORBIDDEN_IN_DOMAIN = /[\0-\u{20}"#%/:<>?@[\\\]^`{|}\u{7f}]/u;

/** The host as it is written back, or undefined when it is none. */
export function parseHost(text: string, special: boolean): string | undefined {
  if (text.startsWith('[')) {
    const pieces = text.endsWith(']') ? parseIpv6(text.slice(1, -1)) : undefined;
    return pieces && `[${writeIpv6(pieces)}]`;
  }
  if (!special) return FORBIDDEN.test(text) ? undefined : percentEncode(text, '');
  const domain = toAscii(percentDecode(text));
  if (domain === undefined || domain === '' || FORBIDDEN_IN_DOMAIN.test(domain)) return undefined;
  const labels = domain.replace(/\.$/, '').split('.');
  return /^(?:\d+|0x[0-9a-f]*)$/.test(labels.at(-1) ?? '') ? parseIpv4(labels) : domain;
}

function parseIpv4(labels: readonly string[]): string | undefined {
  const numbers = labels.map((label) => {
    if (/^0x[0-9a-f]*$/.test(label)) return Number.parseInt(label.slice(2) || '0', 16);
    if (/^0[0-7]*$/.test(label)) return Number.parseInt(label, 8);
    return /^[1-9]\d*$/.test(label) ? Number(label) : Number.NaN;
  });
  const last = numbers.pop() ?? Number.NaN;
  const wrong = numbers.some((number) => !(number <= 255));
  if (wrong || numbers.length > 3 || !(last < 256 ** (4 - numbers.length))) return undefined;
  const address = numbers.reduce((sum, number, index) => sum + number * 256 ** (3 - index), last);
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join('.');
}

/** Eight pieces of 16 bits. */
function parseIpv6(text: string): number[] | undefined {
  const [before = '', after, more] = text.split('::');
  if (more !== undefined) return undefined;
  const head = parsePieces(before, after === undefined);
  const tail = parsePieces(after ?? '', true);
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (after === undefined ? missing !== 0 : missing < 1) return undefined;
  return [...head, ...Array.from({ length: missing }, () => 0), ...tail];
}

function parsePieces(text: string, last: boolean): number[] | undefined {
  if (text === '') return [];
  const pieces: number[] = [];
  const parts = text.split(':');
  for (const [index, part] of parts.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(part)) pieces.push(Number.parseInt(part, 16));
    else {
      const bytes = part.split('.');
      const dotted = bytes.length === 4 && bytes.every((byte) => /^(?:0|[1-9]\d{0,2})$/.test(byte));
      const [a = 256, b = 256, c = 256, d = 256] = bytes.map(Number);
      if (!dotted || !last || index !== parts.length - 1) return undefined;
      if (Math.max(a, b, c, d) > 255) return undefined;
      pieces.push(a * 256 + b, c * 256 + d);
    }
  }
  return pieces;
}

/** Lower case, the first longest run of zeros of two or more as `::` (RFC 5952). */
function writeIpv6(pieces: readonly number[]): string {
  const groups = pieces.map((piece) => piece.toString(16));
  let run = { start: 0, length: 1 };
  for (let start = 0; start < 8; start += 1) {
    let length = 0;
    while (pieces[start + length] === 0) length += 1;
    if (length > run.length) run = { start, length };
  }
  if (run.length === 1) return groups.join(':');
  const after = groups.slice(run.start + run.length).join(':');
  return `${groups.slice(0, run.start).join(':')}::${after}`;
}

/** A domain in ASCII: its labels mapped, and those beyond ASCII in Punycode. */
function toAscii(domain: string): string | undefined {
  const mapped = domain
    .replaceAll(/\u{ad}|\u{200b}|\u{2060}|\u{feff}|[\u{fe00}-\u{fe0f}]/gu, '')
    .replaceAll(/[\u{3002}\u{ff0e}\u{ff61}]/gu, '.')
    .normalize('NFKC')
    .toLowerCase()
    .normalize('NFC');
  // Joiners are allowed by context rules that are not here; what did not decode is no name.
  if (/\u{200c}|\u{200d}|\u{fffd}/u.test(mapped)) return undefined;
  const labels = mapped.split('.').map((label) => {
    return /[^\0-\u{7f}]/u.test(label) ? `xn--${punycode(label)}` : label;
  });
  return labels.join('.');
}

/** RFC 3492, section 6.3. */
function punycode(label: string): string {
  const points = Array.from(label, (character) => character.codePointAt(0) ?? 0);
  const basic = points.filter((point) => point < 0x80);
  let output = String.fromCodePoint(...basic) + (basic.length > 0 ? '-' : '');
  let [n, delta, bias, handled] = [0x80, 0, 72, basic.length];
  while (handled < points.length) {
    const next = Math.min(...points.filter((point) => point >= n));
    delta += (next - n) * (handled + 1);
    n = next;
    for (const point of points) {
      if (point < n) delta += 1;
      if (point !== n) continue;
      let q = delta;
      for (let k = 36; ; k += 36) {
        const t = Math.min(Math.max(k - bias, 1), 26);
        if (q < t) break;
        output += digit(t + ((q - t) % (36 - t)));
        q = Math.floor((q - t) / (36 - t));
      }
      output += digit(q);
      bias = adapt(delta, handled + 1, handled === basic.length);
      delta = 0;
      handled += 1;
    }
    delta += 1;
    n += 1;
  }
  return output;
}

const digit = (value: number): string => String.fromCodePoint(value + (value < 26 ? 97 : 22));

function adapt(delta: number, count: number, first: boolean): number {
  let left = Math.floor(delta / (first ? 700 : 2));
  left += Math.floor(left / count);
  let k = 0;
  for (; left > 455; k += 36) left = Math.floor(left / 35);
  return k + Math.floor((36 * left) / (left + 38));
}
