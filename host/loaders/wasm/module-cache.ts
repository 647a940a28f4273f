/** Compiled modules by digest, shared by the plugins that use them and forgotten with the last. */

interface Entry {
  readonly module: Promise<WebAssembly.Module>;
  users: number;
}

export class ModuleCache {
  readonly #entries = new Map<string, Entry>();
  readonly #compile: (bytes: Uint8Array) => Promise<WebAssembly.Module>;

  constructor(compile: (bytes: Uint8Array) => Promise<WebAssembly.Module>) {
    this.#compile = compile;
  }

  /** Each success must be answered by one `release`. */
  async take(digest: string, bytes: Uint8Array): Promise<WebAssembly.Module> {
    const entry = this.#entries.get(digest) ?? { module: this.#compile(bytes), users: 0 };
    this.#entries.set(digest, entry);
    entry.users += 1;
    try {
      return await entry.module;
    } catch (error) {
      this.release(digest);
      throw error;
    }
  }

  release(digest: string): void {
    const entry = this.#entries.get(digest);
    if (entry === undefined) return;
    entry.users -= 1;
    if (entry.users === 0) this.#entries.delete(digest);
  }
}
