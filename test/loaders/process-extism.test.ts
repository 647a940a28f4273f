/** Plugins of Extism's kits and its ABI, as their suite says them, in a process for each plugin. */
import t from 'tap';
import { createProcessLoader } from '../../host/loaders/process/loader.ts';
import { useLoaderApart } from './sandbox.ts';

t.setTimeout(240_000);
useLoaderApart(createProcessLoader);
await import('./wasm-extism.test.ts');
