/**
 * How many values the functions, blocks and exceptions of a module move, and how many entries its index
 * spaces have, imports first. Invariant: any bytes are answered or refused by ModuleError.
 */
import type { Section } from './binary.ts';
import { ModuleError, Reader } from './reader.ts';

/** How many values a function or block takes and gives. */
export interface Arity {
  readonly params: number;
  readonly results: number;
}

export interface Signatures {
  readonly types: readonly Arity[];
  /** The type of each function by its index. */
  readonly functions: readonly number[];
  /** The type of each exception tag by its index. */
  readonly tags: readonly number[];
  readonly tableCount: number;
  readonly globalCount: number;
}

const SECTION = { type: 1, import: 2, function: 3, table: 4, global: 6, tag: 13 } as const;

/** Throws ModuleError. */
export function readSignatures(bytes: Uint8Array, sections: readonly Section[]): Signatures {
  const open = (id: number): Reader | undefined => {
    const found = sections.find((each) => each.id === id);
    return found && new Reader(bytes, found.body, found.end);
  };
  const each = (id: number, read: (reader: Reader) => void): void => {
    const reader = open(id);
    if (reader === undefined) return;
    for (let left = reader.count(); left > 0; left -= 1) read(reader);
  };
  const types: Arity[] = [];
  const functions: number[] = [];
  const tags: number[] = [];
  let tableCount = open(SECTION.table)?.count() ?? 0;
  let globalCount = open(SECTION.global)?.count() ?? 0;
  each(SECTION.type, (reader) => {
    if (reader.byte() !== 0x60) {
      throw new ModuleError('The module declares types other than functions.');
    }
    types.push({ params: reader.skipValueTypes(), results: reader.skipValueTypes() });
  });
  const tag = (reader: Reader): void => {
    reader.byte();
    tags.push(reader.number());
  };
  each(SECTION.import, (reader) => {
    reader.name();
    reader.name();
    const kind = reader.byte();
    if (kind === 0) functions.push(reader.number());
    else if (kind === 1) {
      reader.tableType();
      tableCount += 1;
    } else if (kind === 2) reader.extent('memory');
    else if (kind === 3) {
      reader.valueType();
      reader.byte();
      globalCount += 1;
    } else tag(reader);
  });
  each(SECTION.function, (reader) => functions.push(reader.number()));
  each(SECTION.tag, tag);
  return { types, functions, tags, tableCount, globalCount };
}

/** Of the type with this index, as it stands in `types`. */
export function arityOf({ types }: Signatures, type: number | undefined): Arity {
  const arity = type === undefined ? undefined : types[type];
  if (arity === undefined) throw new ModuleError('The module names a type that it does not have.');
  return arity;
}

export const NOTHING: Arity = { params: 0, results: 0 };
const VALUE: Arity = { params: 0, results: 1 };

/** Of a block's type, as the reader answers it. */
export function blockArity(signatures: Signatures, type: number | 'nothing' | 'value'): Arity {
  if (type === 'nothing') return NOTHING;
  return type === 'value' ? VALUE : arityOf(signatures, type);
}
