/**
 * How the tests of a plugin come by the host's real loader, which this package does not hold: whoever
 * runs the tests (`noa plugin test`) provides it before they start.
 */
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import type { Limits, Manifest } from '../manifest.ts';

/** What the test host uses of the host's loader. */
export interface TestLoader {
  inspect(manifest: Manifest, limits: Limits, wasm: Uint8Array): Promise<void>;
  load(request: {
    plugin: string;
    generation: number;
    manifest: Manifest;
    limits: Limits;
    wasm: Uint8Array;
    config: Json;
    log(level: string, message: string): void;
  }): Promise<TestRuntime>;
  close(): Promise<void>;
}

export interface TestRuntime {
  call(call: {
    export: string;
    input: string;
    deadline: number;
    signal: AbortSignal;
    invoke(
      capability: string,
      operation: string,
      input: Json,
      signal: AbortSignal,
    ): Promise<unknown>;
  }): Promise<string>;
  stop(): Promise<void>;
}

export type LoaderFactory = () => TestLoader | Promise<TestLoader>;

/** Kept on the global object, because the tests may have another copy of this package than the runner. */
const KEY = Symbol.for('@noa/sdk/testing loader');

/** Makes a loader available to every `createTestHost` of this process. For test runners, not for tests. */
export function provideLoader(factory: LoaderFactory): void {
  Reflect.set(globalThis, KEY, factory);
}

/** Rejects with NoaError UNAVAILABLE when no runner has provided one. */
export async function providedLoader(): Promise<TestLoader> {
  const factory = Reflect.get(globalThis, KEY) as LoaderFactory | undefined;
  if (factory === undefined) {
    const message =
      'This test needs the host to run the built module. Run the tests with `noa plugin test`, or pass the handlers (`plugin`) to run them natively.';
    throw new NoaError('UNAVAILABLE', message);
  }
  return factory();
}
