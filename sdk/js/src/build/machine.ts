/**
 * Drives an instance of the engine at build time. The host is not there: whatever the plugin's top level
 * asks of it is recorded with the place that asked, and the build decides what that means.
 */

/** What the top level of a plugin asked of the host. */
export interface Attempt {
  /** `log`, or the capability that cannot be used at build time. */
  readonly capability: string;
  /** The line that was logged. */
  readonly text: string;
  /** Where, in positions of the bundle. */
  readonly stack: string;
}

/** The guest's exception, in positions of the bundle. */
export class GuestError extends Error {
  readonly guestStack: string;

  constructor(message: string, guestStack: string) {
    super(message);
    this.name = 'GuestError';
    this.guestStack = guestStack;
  }
}

/** The file name that positions of the bundle carry. */
export const BUNDLE_NAME = 'plugin.js';

const STRIP_SOURCE = 1 << 4;

interface EngineExports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  qjs_init(): number;
  noa_limit_stack(): void;
  qjs_set_promise_rejection_handler(enabled: number): void;
  qjs_new_host_function(name: number, length: number, arity: number): number;
  qjs_compile(
    code: number,
    length: number,
    name: number,
    evalFlags: number,
    writeFlags: number,
    lengthOut: number,
  ): number;
  qjs_eval(code: number, length: number, name: number, flags: number): number;
  qjs_eval_bytecode(code: number, length: number): number;
  qjs_is_job_pending(): number;
  qjs_execute_pending_job(): number;
  qjs_is_exception(value: number): number;
  qjs_get_exception(): number;
  qjs_get_global(): number;
  qjs_get_prop_string(object: number, name: number): number;
  qjs_set_prop_string(object: number, name: number, value: number): number;
  qjs_get_string_len(value: number, lengthOut: number): number;
  qjs_free_cstring(text: number): void;
  qjs_free_value(value: number): void;
  qjs_run_gc(): void;
  wasm_malloc(bytes: number): number;
  wasm_free(pointer: number): void;
}

export class Machine {
  readonly instance: WebAssembly.Instance;
  readonly attempts: Attempt[] = [];
  readonly #engine: EngineExports;
  #recording = false;

  constructor(module: WebAssembly.Module) {
    this.instance = new WebAssembly.Instance(module, this.#imports(module));
    // The engine's build checks that these are all there.
    this.#engine = this.instance.exports as Readonly<Record<string, unknown>> & EngineExports;
    this.#engine._initialize();
    if (this.#engine.qjs_init() !== 0) throw new Error('the engine did not start');
    this.#engine.noa_limit_stack();
    this.#engine.qjs_set_promise_rejection_handler(1);
  }

  /** Bytecode of a script, without its source. */
  compile(source: string): Uint8Array {
    const engine = this.#engine;
    const code = this.#put(new TextEncoder().encode(source));
    const name = this.#put(new TextEncoder().encode(BUNDLE_NAME));
    const length = engine.wasm_malloc(4);
    const bytecode = engine.qjs_compile(code.at, code.length, name.at, 0, STRIP_SOURCE, length);
    if (bytecode === 0) throw this.#exception();
    return this.#view(bytecode, this.#word(length)).slice();
  }

  /** Runs the top level of a script; afterwards nothing of the bytecode is left in memory. */
  run(bytecode: Uint8Array): void {
    const engine = this.#engine;
    const name = this.#put(new TextEncoder().encode('__noa_host'));
    const global = engine.qjs_get_global();
    const door = engine.qjs_new_host_function(name.at, name.length, 0);
    engine.qjs_set_prop_string(global, name.at, door);
    engine.qjs_free_value(global);
    this.#wipe(name);
    const code = this.#put(bytecode);
    this.#recording = true;
    const result = engine.qjs_eval_bytecode(code.at, code.length);
    if (engine.qjs_is_exception(result)) throw this.#exception();
    engine.qjs_free_value(result);
    while (engine.qjs_is_job_pending()) {
      if (engine.qjs_execute_pending_job() < 0) throw this.#exception();
    }
    this.#recording = false;
    this.#wipe(code);
  }

  /** The text of an expression. */
  evaluate(expression: string): string {
    const source = this.#put(new TextEncoder().encode(expression));
    const name = this.#put(new TextEncoder().encode('build'));
    const result = this.#engine.qjs_eval(source.at, source.length, name.at, 0);
    this.#wipe(source);
    this.#wipe(name);
    if (this.#engine.qjs_is_exception(result)) throw this.#exception();
    const value = this.#text(result);
    this.#engine.qjs_free_value(result);
    return value;
  }

  collectGarbage(): void {
    this.#engine.qjs_run_gc();
  }

  #imports(module: WebAssembly.Module): WebAssembly.Imports {
    const imports: WebAssembly.Imports = {};
    for (const entry of WebAssembly.Module.imports(module)) {
      const space = (imports[entry.module] ??= {});
      space[entry.name] = (): bigint | number =>
        this.#attempt(CAPABILITY_OF[entry.name] ?? entry.name);
    }
    // Of requests and log lines the build tells: their text is kept here. Addresses are counted anew in
    // each build, so that a snapshot that holds one is the same every time.
    const blocks = new Map<bigint, Uint8Array>();
    let last = 0n;
    const textOf = (address: bigint): string =>
      new TextDecoder().decode(blocks.get(address)?.subarray(0, MAX_TEXT_BYTES));
    const log = (address: bigint): void => void this.#attempt('log', textOf(address));
    const call = (address: bigint) => this.#attempt(capabilityOf(textOf(address)));
    Object.assign((imports['extism:host/user'] ??= {}), {
      noa_write: (address: bigint, at: number, length: number) => {
        if (this.#recording) blocks.set(address, this.#view(at, length).slice());
      },
      noa_call: call,
      noa_call_bytes: call,
      noa_reply_bytes: () => 0n,
    });
    Object.assign((imports['extism:host/env'] ??= {}), {
      alloc: () => (last += 1n),
      free: (address: bigint) => void blocks.delete(address),
      log_debug: log,
      log_info: log,
      log_warn: log,
      log_error: log,
    });
    return imports;
  }

  /** Always answers 0, so that nothing of this machine gets into the snapshot. */
  #attempt(capability: string, text = ''): bigint | number {
    if (this.#recording) {
      // Re-entered from inside the guest's own call, so this stack holds the frames that led here.
      this.#recording = false;
      this.attempts.push({ capability, text, stack: this.evaluate('new Error().stack') });
      this.#recording = true;
    }
    return 0n;
  }

  #exception(): GuestError {
    const engine = this.#engine;
    this.#recording = false;
    const thrown = engine.qjs_get_exception();
    const global = engine.qjs_get_global();
    const name = this.#put(new TextEncoder().encode('__noa_thrown'));
    engine.qjs_set_prop_string(global, name.at, thrown);
    return new GuestError(
      this.evaluate('String(__noa_thrown)'),
      this.evaluate('String(__noa_thrown?.stack ?? "")'),
    );
  }

  #put(bytes: Uint8Array): { at: number; length: number } {
    const at = this.#engine.wasm_malloc(bytes.length + 1);
    if (at === 0) throw new Error('the engine has no memory left');
    const target = this.#view(at, bytes.length + 1);
    target.set(bytes);
    target[bytes.length] = 0;
    return { at, length: bytes.length };
  }

  /** Zeroed before it is freed: what was in it must not be in the snapshot. */
  #wipe({ at, length }: { at: number; length: number }): void {
    this.#view(at, length).fill(0);
    this.#engine.wasm_free(at);
  }

  #text(value: number): string {
    const length = this.#engine.wasm_malloc(4);
    const at = this.#engine.qjs_get_string_len(value, length);
    const text = new TextDecoder().decode(this.#view(at, this.#word(length)));
    this.#engine.qjs_free_cstring(at);
    this.#engine.wasm_free(length);
    return text;
  }

  #word(at: number): number {
    return new DataView(this.#engine.memory.buffer).getUint32(at, true);
  }

  #view(at: number, length: number): Uint8Array {
    return new Uint8Array(this.#engine.memory.buffer, at, length);
  }
}

const MAX_TEXT_BYTES = 4096;

const CAPABILITY_OF: { readonly [imported: string]: string | undefined } = {
  noa_clock: 'clock',
  noa_random: 'random',
};

/** The capability of a request, whose text may be cut short. */
function capabilityOf(request: string): string {
  return /^\{"capability":"(\w+)"/.exec(request)?.[1] ?? 'a capability';
}
