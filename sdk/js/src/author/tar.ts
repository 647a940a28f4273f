/**
 * The part of tar (POSIX.1-1988 ustar) that a bundle needs: plain files in one buffer. Invariant: every
 * archive has one reading; whatever other tools might read differently (links, devices, names or sizes
 * given twice, data after the end) is refused. It works on a whole buffer because a bundle is bounded.
 */

/** Thrown for what is wrong with an archive; `message` completes "The bundle …". */
export class TarError extends Error {}

const BLOCK = 512;
/** Tools fill up to their own block size, 10 KiB by default. */
const MAX_PADDING = 1 << 20;
const TYPES: { readonly [flag: string]: string } = {
  '1': 'a hard link',
  '2': 'a symbolic link',
  '3': 'a character device',
  '4': 'a block device',
  '6': 'a pipe',
};

/**
 * Calls `visit` for each file and folder (`content` undefined) in order of the archive. `content` is a
 * view into `archive`.
 * @throws TarError
 */
export function readTar(
  archive: Uint8Array,
  visit: (name: string, content: Uint8Array | undefined) => void,
): void {
  let at = 0;
  while (at + BLOCK <= archive.length) {
    const header = archive.subarray(at, at + BLOCK);
    if (header.every((byte) => byte === 0)) break;
    const { name, size, flag } = readHeader(header);
    const content = archive.subarray(at + BLOCK, at + BLOCK + size);
    if (content.length < size) throw new TarError('is cut off');
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
    if (flag === 'x' || flag === 'g') checkExtension(content);
    else if (flag === '0') visit(name, content);
    else if (flag === '5' && size === 0) visit(name, undefined);
    else throw new TarError(`holds ${quote(name)}, ${TYPES[flag] ?? 'an entry of unknown kind'}`);
  }
  const rest = archive.subarray(at);
  if (rest.length === 0) throw new TarError('is cut off');
  if (rest.length > MAX_PADDING || rest.some((byte) => byte !== 0)) {
    throw new TarError('holds data after its end');
  }
}

/** Writes the files, in their order, as owned by root, of mode 0644 and of no date. */
export function writeTar(
  files: Iterable<readonly [name: string, content: Uint8Array]>,
): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (const [name, content] of files) {
    const header = Buffer.alloc(BLOCK);
    const split = name.length > 100 ? name.indexOf('/', name.length - 101) : -1;
    if (name.length - split - 1 > 100 || split > 155)
      throw new TarError(`holds ${quote(name)}, a name too long`);
    header.write(name.slice(split + 1), 0);
    header.write(name.slice(0, Math.max(0, split)), 345);
    const octal = (value: number, width: number): string => value.toString(8).padStart(width, '0');
    header.write(`${octal(0o644, 7)}\0${octal(0, 7)}\0${octal(0, 7)}\0`, 100);
    header.write(`${octal(content.length, 11)}\0${octal(0, 11)}\0`, 124);
    header.write('0', 156);
    header.write('ustar\u000000', 257);
    header.write(`${octal(checksum(header), 6)}\0 `, 148);
    blocks.push(header, content, Buffer.alloc(-content.length & (BLOCK - 1)));
  }
  return Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK)]);
}

function readHeader(header: Uint8Array): { name: string; size: number; flag: string } {
  if (octal(header, 148, 8) !== checksum(header))
    throw new TarError('is not a tar archive, or is damaged');
  const magic = text(header, 257, 5);
  if (magic !== 'ustar') throw new TarError('is a tar archive of an old format; use ustar');
  // GNU tar ends the magic with a space and keeps other things where ustar keeps the prefix.
  const prefix = header[262] === 0 ? text(header, 345, 155) : '';
  const name = text(header, 0, 100);
  const flag = header[156] === 0 ? '0' : String.fromCharCode(header[156] ?? 0);
  return { name: prefix === '' ? name : `${prefix}/${name}`, size: octal(header, 124, 12), flag };
}

/** Records of a pax header (POSIX.1-2001) may add notes; they may not rename or resize the next entry. */
function checkExtension(content: Uint8Array): void {
  const records = Buffer.from(content).toString('latin1');
  const changes = /(^|\n)\d+ (path|linkpath|size|GNU\.sparse[^=]*)=/.exec(records);
  if (changes !== null)
    throw new TarError(`holds an extended header that sets ${String(changes[2])}`);
}

/** Sum of the header's bytes, its own field counted as spaces. */
function checksum(header: Uint8Array): number {
  let sum = 8 * 32;
  for (const [i, byte] of header.entries()) if (i < 148 || i >= 156) sum += byte;
  return sum;
}

function text(header: Uint8Array, from: number, length: number): string {
  const field = header.subarray(from, from + length);
  const end = field.indexOf(0);
  return Buffer.from(end < 0 ? field : field.subarray(0, end)).toString();
}

function octal(header: Uint8Array, from: number, length: number): number {
  const field = Buffer.from(header.subarray(from, from + length)).toString('latin1');
  const digits = /^ *([0-7]{1,11})[ \0]*$/.exec(field)?.[1];
  if (digits === undefined) throw new TarError('is not a tar archive, or is damaged');
  return parseInt(digits, 8);
}

function quote(name: string): string {
  return JSON.stringify(name.slice(0, 100));
}
