/**
 * The part of the WebAssembly JavaScript interface (W3C) that the build uses. The compiler ships these
 * types only with the DOM, which this program does not have.
 */
declare namespace WebAssembly {
  type Import = (...values: never[]) => unknown;
  type Imports = Record<string, Record<string, Import>>;

  class Module {
    private constructor();
    static imports(module: Module): { module: string; name: string }[];
  }
  class Instance {
    constructor(module: Module, imports: Imports);
    readonly exports: Readonly<Record<string, unknown>>;
  }
  class Memory {
    private constructor();
    readonly buffer: ArrayBuffer;
  }
  class Global {
    private constructor();
    readonly value: number | bigint;
  }
  function compile(bytes: Uint8Array): Promise<Module>;
}
