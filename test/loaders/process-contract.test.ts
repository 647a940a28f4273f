/** The behaviour of the WebAssembly sandbox, as its own suites say it, in a process for each plugin. */
import { createProcessLoader } from '../../host/loaders/process/loader.ts';
import t from 'tap';
import { useLoaderApart } from './sandbox.ts';

t.setTimeout(240_000);
useLoaderApart(createProcessLoader);
await import('./wasm.test.ts');
await import('./wasm-survival.test.ts');
await import('./wasm-bounds.test.ts');
await import('./wasm-fuel.test.ts');
