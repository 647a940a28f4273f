/**
 * Reads the outline of a WebAssembly 1.0 binary (core specification, section 5) and rewrites its limits.
 * It reads only what admission judges; code is fuel.ts's matter, and the engine validates the whole.
 * Invariant: any bytes whatever are answered with an outline or a `ModuleError`, in linear time.
 */
import { MAX_ENTRIES, ModuleError, Reader, leb, section } from './reader.ts';
import type { Extent } from './reader.ts';

export { ModuleError };

export interface ImportEntry {
  readonly module: string;
  readonly name: string;
  readonly kind: 'function' | 'table' | 'memory' | 'global' | 'tag';
  /** `(i64, i32) -> i64`; empty for anything but functions. */
  readonly signature: string;
}

export interface Outline {
  readonly imports: readonly ImportEntry[];
  /** Signature of each exported function by its name. */
  readonly functions: ReadonlyMap<string, string>;
  /** Functions that it defines. */
  readonly functionCount: number;
  /** Every exported name. */
  readonly exports: ReadonlySet<string>;
  readonly memories: readonly Extent[];
  readonly tables: readonly Extent[];
  readonly sections: readonly Section[];
}

export interface Section {
  readonly id: number;
  /** Offset of the section's id byte. */
  readonly start: number;
  /** Offset of its content. */
  readonly body: number;
  readonly end: number;
}

const SECTION = { type: 1, import: 2, function: 3, table: 4, memory: 5, export: 7 } as const;
const KINDS = ['function', 'table', 'memory', 'global', 'tag'] as const;
function readTypes(reader: Reader): string[] {
  return Array.from({ length: reader.count() }, () => {
    if (reader.byte() !== 0x60) {
      throw new ModuleError(
        'The module declares types other than functions; build it without the GC proposal.',
      );
    }
    return `(${reader.valueTypes()}) -> ${reader.valueTypes() || 'nothing'}`;
  });
}

function signatureOf(types: readonly string[], index: number | undefined): string {
  const signature = index === undefined ? undefined : types[index];
  if (signature === undefined) throw new ModuleError('The module has a function without a type.');
  return signature;
}

function readImport(reader: Reader, types: readonly string[]): ImportEntry {
  const module = reader.name();
  const name = reader.name();
  const kind = KINDS[reader.byte()];
  if (kind === undefined)
    throw new ModuleError(`The import "${module}" "${name}" has no known kind.`);
  let signature = '';
  if (kind === 'function') signature = signatureOf(types, reader.number());
  else if (kind === 'table') reader.tableType();
  else if (kind === 'memory') reader.extent('memory');
  else if (kind === 'global') {
    reader.valueType();
    reader.byte();
  } else {
    reader.byte();
    reader.number();
  }
  return { module, name, kind, signature };
}

/** The sections in the order in which they come. Throws ModuleError. */
export function readSections(bytes: Uint8Array): Section[] {
  const magic = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
  if (magic.some((byte, at) => bytes[at] !== byte)) {
    throw new ModuleError(
      'The file is not a WebAssembly 1.0 module; build a core module, not a component or a text file.',
    );
  }
  const reader = new Reader(bytes, magic.length, bytes.length);
  const sections: Section[] = [];
  const seen = new Set<number>();
  while (!reader.done) {
    const start = reader.at;
    const id = reader.byte();
    const size = reader.number();
    const body = reader.at;
    if (size > bytes.length - body) throw new ModuleError('The module is cut short.');
    if (id !== 0 && seen.has(id)) throw new ModuleError(`The module has section ${id} twice.`);
    if (sections.length > MAX_ENTRIES) throw new ModuleError('The module has too many sections.');
    seen.add(id);
    sections.push({ id, start, body, end: body + size });
    reader.at = body + size;
  }
  return sections;
}

/** Reads the outline. Throws ModuleError. */
export function readOutline(bytes: Uint8Array): Outline {
  const sections = readSections(bytes);
  const open = (id: number): Reader | undefined => {
    const section = sections.find((candidate) => candidate.id === id);
    return section && new Reader(bytes, section.body, section.end);
  };
  const list = <T>(id: number, read: (reader: Reader) => T): T[] => {
    const reader = open(id);
    return reader ? Array.from({ length: reader.count() }, () => read(reader)) : [];
  };

  const typeReader = open(SECTION.type);
  const types = typeReader ? readTypes(typeReader) : [];
  const imports = list(SECTION.import, (reader) => readImport(reader, types));
  const imported = imports.filter((entry) => entry.kind === 'function');
  const own = list(SECTION.function, (reader) => reader.number());
  const functions = new Map<string, string>();
  const exports = new Set<string>();
  list(SECTION.export, (reader) => {
    const name = reader.name();
    const kind = KINDS[reader.byte()];
    const index = reader.number();
    exports.add(name);
    if (kind !== 'function') return;
    const signature =
      imported[index]?.signature ?? signatureOf(types, own[index - imported.length]);
    functions.set(name, signature);
  });
  const memories = list(SECTION.memory, (reader) => reader.extent('memory'));
  const tables = list(SECTION.table, (reader) => reader.tableType());
  const functionCount = own.length;
  return { imports, functions, functionCount, exports, memories, tables, sections };
}

function clamped(extent: Extent, cap: number): number[] {
  return [1, ...leb(extent.min), ...leb(Math.min(extent.max ?? cap, cap))];
}

export interface Caps {
  /** Largest linear memory in pages of 64 KiB. */
  readonly memoryPages: number;
  /** Largest table in slots. */
  readonly tableSlots: number;
  /** Name under which the memory is exported, so that the host can see how large it has grown. */
  readonly memoryExport: string;
}

/**
 * A copy of the module whose memory and tables have maxima no larger than the caps. The caller has
 * checked that the initial sizes are inside them. An export section is expected.
 */
export function clamp(bytes: Uint8Array, outline: Outline, caps: Caps): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [bytes.subarray(0, 8)];
  for (const { id, start, body, end } of outline.sections) {
    if (id === SECTION.memory && outline.memories.length > 0) {
      const entries = outline.memories.map((memory) => clamped(memory, caps.memoryPages));
      parts.push(section(id, [leb(entries.length), ...entries]));
    } else if (id === SECTION.table) {
      const reader = new Reader(bytes, body, end);
      const count = reader.count();
      const entries = Array.from({ length: count }, () => {
        const reference = bytes[reader.at] ?? 0;
        return [reference, ...clamped(reader.tableType(), caps.tableSlots)];
      });
      parts.push(section(id, [leb(count), ...entries]));
    } else if (id === SECTION.export && outline.memories.length > 0) {
      const reader = new Reader(bytes, body, end);
      const count = reader.count();
      const name = Buffer.from(caps.memoryExport);
      const entry = [...leb(name.length), ...name, 2, 0];
      parts.push(section(id, [leb(count + 1), bytes.subarray(reader.at, end), entry]));
    } else {
      parts.push(bytes.subarray(start, end));
    }
  }
  return Uint8Array.from(Buffer.concat(parts));
}
