/** What the engine's build and its tests ask of a module, beside what the loader's types have. */
declare namespace WebAssembly {
  namespace Module {
    function imports(module: Module): { module: string; name: string; kind: string }[];
    function exports(module: Module): { name: string; kind: string }[];
  }
}
