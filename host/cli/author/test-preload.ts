/**
 * Preloaded into the tests of a plugin: lets `createTestHost` run the built module under the host's own
 * loader, with one sandbox thread, because a test makes one call at a time.
 */
import { provideLoader } from '@noa/sdk/testing';
import { builtinBytes } from '../../builtin.ts';
import { createWasmLoader } from '../../loaders/wasm/loader.ts';

provideLoader(() => createWasmLoader({ threads: 1, bytes: builtinBytes }));
