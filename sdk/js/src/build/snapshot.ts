/**
 * Writes a module that starts where a live instance of the engine stands: its memory becomes the data
 * segments, its globals their own initial values, and each export of the plugin a stub that calls the
 * dispatcher with the number of its handler. What the module exports is `memory` and the plugin's own.
 */
import { concat, Reader, readSections, SECTION, signed, text, u32, writeModule } from './wasm.ts';
import type { Section } from './wasm.ts';

const PAGE = 65_536;
/** Below the engine's stack: texts of the glue; see the map of memory at the head of glue.wat. */
const KEPT_BELOW_STACK = { from: 256, to: 512 };
/** Two segments cost less than this many zero bytes between them. */
const GAP_WORDS = 2;

export interface SnapshotRequest {
  readonly engine: Uint8Array;
  readonly instance: WebAssembly.Instance;
  /** Exports to write, with the number that the dispatcher knows each by. */
  readonly exports: readonly { readonly name: string; readonly index: number }[];
  readonly maxPages: number;
  readonly custom: readonly Section[];
}

export function snapshot(request: SnapshotRequest): Uint8Array<ArrayBuffer> {
  const { engine, instance, exports, maxPages } = request;
  const sections = readSections(engine);
  const layout = readLayout(sections);
  const memory = memoryOf(instance);
  const segments = dataSegments(memory, layout.stackTop(instance));
  const count = exports.length;
  const rewritten = sections.flatMap(({ id, body }): Section[] => {
    switch (id) {
      case SECTION.custom:
        return [];
      case SECTION.function:
        return [
          {
            id,
            body: extend(
              body,
              exports.map(() => u32(layout.stubType)),
            ),
          },
        ];
      case SECTION.memory:
        return [{ id, body: concat([[1, 1], u32(memory.length / PAGE), u32(maxPages)]) }];
      case SECTION.global:
        return [{ id, body: layout.globals(instance) }];
      case SECTION.export: {
        const stubs = exports.map(({ name }, i) => [
          ...text(name),
          0,
          ...u32(layout.functions + i),
        ]);
        return [{ id, body: concat([u32(count + 1), text('memory'), [2, 0], ...stubs]) }];
      }
      case SECTION.code: {
        const stubs = exports.map(({ index }) => {
          const code = [0, 0x41, ...signed(BigInt(index)), 0x10, ...u32(layout.dispatch), 0x0b];
          return [...u32(code.length), ...code];
        });
        return [{ id, body: extend(body, stubs) }];
      }
      case SECTION.data:
        return [{ id, body: concat([u32(segments.length / 2), ...segments]) }];
      case SECTION.dataCount:
        return [{ id, body: concat([u32(segments.length / 2)]) }];
      default:
        return [{ id, body }];
    }
  });
  return writeModule([...rewritten, ...request.custom]);
}

/** A vector with entries added at its end. */
function extend(vector: Uint8Array, added: readonly number[][]): Uint8Array {
  const reader = new Reader(vector);
  const count = reader.u32();
  return concat([u32(count + added.length), reader.rest(), ...added]);
}

function memoryOf(instance: WebAssembly.Instance): Uint8Array {
  const { memory } = instance.exports;
  if (!(memory instanceof WebAssembly.Memory)) throw new Error('the engine exports no memory');
  return new Uint8Array(memory.buffer);
}

/** Active segments, each a header and its bytes: the runs of memory that are not zero. */
function dataSegments(memory: Uint8Array, stackTop: number): ArrayLike<number>[] {
  const words = new BigUint64Array(memory.buffer);
  const segments: ArrayLike<number>[] = [];
  const scan = (from: number, to: number): void => {
    const end = to / 8;
    for (let start = from / 8; start < end; start += 1) {
      if (words[start] === 0n) continue;
      let last = start;
      for (let at = start + 1; at < end && at - last <= GAP_WORDS; at += 1) {
        if (words[at] !== 0n) last = at;
      }
      const bytes = memory.subarray(start * 8, (last + 1) * 8);
      segments.push([0, 0x41, ...signed(BigInt(start * 8)), 0x0b, ...u32(bytes.length)], bytes);
      start = last;
    }
  };
  scan(KEPT_BELOW_STACK.from, KEPT_BELOW_STACK.to);
  scan(stackTop, memory.length);
  return segments;
}

interface Layout {
  /** Functions of the engine, imports included: the number of the first one added. */
  readonly functions: number;
  /** The type () → i32. */
  readonly stubType: number;
  readonly dispatch: number;
  stackTop(instance: WebAssembly.Instance): number;
  /** The global section with each mutable global at its present value. */
  globals(instance: WebAssembly.Instance): Uint8Array;
}

function readLayout(sections: readonly Section[]): Layout {
  const section = (id: number): Reader => {
    const found = sections.find((candidate) => candidate.id === id);
    if (found === undefined) throw new Error(`the engine has no section ${id}`);
    return new Reader(found.body);
  };
  const names = readExports(section(SECTION.export));
  const dispatch = names.functions.get('noa_dispatch');
  if (dispatch === undefined) throw new Error('the engine exports no dispatcher');
  const valueOf = (instance: WebAssembly.Instance, name: string): bigint => {
    const global = instance.exports[name];
    if (!(global instanceof WebAssembly.Global)) throw new Error(`the engine lacks ${name}`);
    return BigInt(global.value);
  };
  return {
    functions: countImports(section(SECTION.import)) + section(SECTION.function).u32(),
    stubType: findStubType(section(SECTION.type)),
    dispatch,
    stackTop: (instance) => Number(valueOf(instance, '__stack_pointer')),
    globals(instance) {
      const reader = section(SECTION.global);
      const count = reader.u32();
      const parts: ArrayLike<number>[] = [u32(count)];
      for (let index = 0; index < count; index += 1) {
        const start = reader.position;
        reader.byte();
        const mutable = reader.byte() === 1;
        const op = reader.byte();
        if (op !== 0x41 && op !== 0x42) throw new Error(`global ${index} has no constant value`);
        while (reader.byte() >= 0x80);
        reader.byte();
        const name = names.globals.get(index);
        if (!mutable) parts.push(reader.bytes.subarray(start, reader.position));
        else if (name === undefined) throw new Error(`mutable global ${index} is not exported`);
        else {
          const head = reader.bytes.subarray(start, start + 3);
          parts.push(head, signed(valueOf(instance, name)), [0x0b]);
        }
      }
      return concat(parts);
    },
  };
}

function readExports(reader: Reader): {
  functions: Map<string, number>;
  globals: Map<number, string>;
} {
  const functions = new Map<string, number>();
  const globals = new Map<number, string>();
  for (let left = reader.u32(); left > 0; left -= 1) {
    const name = reader.text();
    const kind = reader.byte();
    const index = reader.u32();
    if (kind === 0) functions.set(name, index);
    if (kind === 3) globals.set(index, name);
  }
  return { functions, globals };
}

function countImports(reader: Reader): number {
  const count = reader.u32();
  for (let left = count; left > 0; left -= 1) {
    const name = `${reader.text()} ${reader.text()}`;
    if (reader.byte() !== 0) throw new Error(`the engine imports ${name}, which is no function`);
    reader.u32();
  }
  return count;
}

function findStubType(reader: Reader): number {
  const count = reader.u32();
  for (let index = 0; index < count; index += 1) {
    if (reader.byte() !== 0x60) throw new Error('the engine has a type that is no function');
    const parameters = reader.take(reader.u32());
    const results = reader.take(reader.u32());
    if (parameters.length === 0 && results.length === 1 && results[0] === 0x7f) return index;
  }
  throw new Error('the engine has no function of type () -> i32');
}
