/** A host for one instance of a guest, as small as the ABI (sdk/abi.md) allows. */
import { randomBytes } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';

type Call = { capability: string; operation: string; arguments: Record<string, unknown> };

export interface GuestOptions {
  readonly config?: unknown;
  /** Answers capability calls; throws the NoaError that the guest is to see. */
  answer?(call: Call): unknown;
  /** Milliseconds since 1970; the machine's clock by default. */
  readonly clock?: () => number;
}

/** How an export ended. */
export type Ending =
  | { readonly output: unknown }
  | {
      readonly code: string;
      readonly message: string;
      readonly details?: unknown;
      readonly stack?: string;
    };

export class GuestInstance {
  readonly logs: string[] = [];
  readonly calls: Call[] = [];
  readonly exports: Readonly<Record<string, unknown>>;
  #blocks = new Map<bigint, Uint8Array>();
  #next = 8n;
  #input = 0n;
  #output = '';
  #error = '';
  readonly #options: GuestOptions;

  constructor(wasm: Uint8Array, options: GuestOptions = {}) {
    this.#options = options;
    const module = new WebAssembly.Module(wasm);
    this.exports = new WebAssembly.Instance(module, {
      'extism:host/env': this.#env(),
      'extism:host/user': {
        noa_call: new WebAssembly.Suspending((block: bigint) => this.#call(block)),
        noa_call_bytes: new WebAssembly.Suspending((block: bigint) => this.#call(block)),
        noa_reply_bytes: () => 0n,
        noa_read: (address: bigint, pointer: number, length: number) =>
          this.#own(pointer, length).set(this.#bytes(address, length)),
        noa_write: (address: bigint, pointer: number, length: number) =>
          this.#bytes(address, length).set(this.#own(pointer, length)),
        noa_clock: () => BigInt((options.clock ?? Date.now)()) * 1_000_000n,
        noa_random: () => randomBytes(8).readBigUInt64LE(),
      },
    }).exports;
  }

  /** Blocks that are alive: what the last call left. */
  get blocks(): number {
    return this.#blocks.size;
  }

  /** Runs an export on a JSON-able input; `undefined` is no input at all. */
  async call(name: string, input?: unknown): Promise<Ending> {
    return this.callText(name, input === undefined ? '' : JSON.stringify(input));
  }

  async callText(name: string, input: string): Promise<Ending> {
    this.#blocks.clear();
    this.#input = this.#store(input);
    this.#output = this.#error = '';
    const run = WebAssembly.promising(this.exports[name] as WebAssembly.ExportedFunction);
    const status = await run();
    if (status === 0) return { output: JSON.parse(this.#output) as unknown };
    return JSON.parse(this.#error) as Ending;
  }

  async #call(block: bigint): Promise<bigint> {
    const call = JSON.parse(this.#text(block)) as Call;
    this.calls.push(call);
    await new Promise(setImmediate);
    try {
      const value = this.#options.answer?.(call) ?? null;
      return this.#store(JSON.stringify({ ok: true, value }));
    } catch (error) {
      if (!(error instanceof NoaError)) throw error;
      return this.#store(JSON.stringify({ ok: false, error: error.toBody() }));
    }
  }

  #store(text: string): bigint {
    const bytes = new TextEncoder().encode(text);
    const address = this.#alloc(bytes.length);
    this.#blocks.get(address)?.set(bytes);
    return address;
  }

  /** As hosts do, no block of no bytes. */
  #alloc(length: number): bigint {
    if (length === 0) return 0n;
    const address = this.#next;
    this.#next += BigInt(length + 8);
    this.#blocks.set(address, new Uint8Array(length));
    return address;
  }

  /** A block is freed once, by whom it belongs to. */
  #drop(address: bigint): void {
    if (!this.#blocks.delete(address)) throw new Error(`no block to free at ${address}`);
  }

  #text(address: bigint): string {
    const bytes = this.#blocks.get(address);
    if (bytes === undefined) throw new Error(`no block at ${address}`);
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  }

  /** The bytes at an address; strict, so that a wrong access fails a test. */
  #bytes(address: bigint, size: number): Uint8Array {
    for (const [start, bytes] of this.#blocks) {
      const offset = Number(address - start);
      if (offset >= 0 && offset + size <= bytes.length) {
        return bytes.subarray(offset, offset + size);
      }
    }
    throw new Error(`${size} bytes at ${address} are in no block`);
  }

  #view(address: bigint, size: number): DataView {
    const bytes = this.#bytes(address, size);
    return new DataView(bytes.buffer, bytes.byteOffset, size);
  }

  #own(pointer: number, length: number): Uint8Array {
    const { buffer } = this.exports['memory'] as WebAssembly.Memory;
    return new Uint8Array(buffer, pointer, length);
  }

  #env(): Record<string, (...values: never[]) => unknown> {
    const log = (level: string) => (block: bigint) => {
      this.logs.push(`${level} ${this.#text(block)}`);
      this.#drop(block);
    };
    return {
      input_offset: () => this.#input,
      input_length: () => BigInt(this.#blocks.get(this.#input)?.length ?? 0),
      alloc: (length: bigint) => this.#alloc(Number(length)),
      free: (address: bigint) => this.#drop(address),
      length: (address: bigint) => BigInt(this.#blocks.get(address)?.length ?? 0),
      load_u8: (address: bigint) => this.#view(address, 1).getUint8(0),
      load_u64: (address: bigint) => this.#view(address, 8).getBigUint64(0, true),
      store_u8: (address: bigint, value: number) => this.#view(address, 1).setUint8(0, value),
      store_u64: (address: bigint, value: bigint) =>
        this.#view(address, 8).setBigUint64(0, value, true),
      output_set: (address: bigint, length: bigint) => {
        this.#output = this.#text(address).slice(0, Number(length));
      },
      error_set: (address: bigint) => {
        this.#error = this.#text(address);
      },
      config_get: (block: bigint) => {
        const key = this.#text(block);
        this.#drop(block);
        const known = key === 'noa' && this.#options.config !== undefined;
        return known ? this.#store(JSON.stringify(this.#options.config)) : 0n;
      },
      log_debug: log('debug'),
      log_info: log('info'),
      log_warn: log('warn'),
      log_error: log('error'),
    };
  }
}
