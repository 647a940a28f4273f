/**
 * The part of the WebAssembly JavaScript interface (W3C, with JS Promise Integration) that the loader
 * uses. The compiler ships these types only with the DOM, which this program does not have.
 */
declare namespace WebAssembly {
  type ImportValue = ((...args: never[]) => unknown) | Memory | Table | Suspending;
  type Imports = Record<string, Record<string, ImportValue>>;
  type ExportedFunction = (...args: (number | bigint)[]) => number | bigint | undefined;

  class Module {
    constructor(bytes: Uint8Array);
    static imports(module: Module): { readonly module: string; readonly name: string }[];
    static customSections(module: Module, name: string): ArrayBuffer[];
  }
  class Instance {
    constructor(module: Module, imports?: Imports);
    readonly exports: Readonly<Record<string, unknown>>;
  }
  class Memory {
    constructor(descriptor: { initial: number; maximum: number });
    readonly buffer: ArrayBuffer;
  }
  class Table {
    constructor(descriptor: { element: 'anyfunc'; initial: number });
    set(index: number, value: ExportedFunction | null): void;
  }
  class Global {
    readonly value: number;
  }
  class CompileError extends Error {}
  class LinkError extends Error {}
  class RuntimeError extends Error {}
  /** What a guest throws with its own `throw` instruction and nothing catches. */
  class Exception {}

  function validate(bytes: Uint8Array): boolean;

  /** An import that may answer with a promise: the guest's stack is set aside until it settles. */
  class Suspending {
    constructor(fn: (...args: never[]) => unknown);
  }
  /** An export that answers a promise, so that imports below it may suspend. */
  function promising(fn: ExportedFunction): (...args: (number | bigint)[]) => Promise<unknown>;
}
