/** Entry of the process of one untrusted plugin: the same sandbox as in the host, behind a channel. */
import { createWasmLoader } from '../wasm/loader.ts';
import { serve } from './server.ts';

serve(createWasmLoader);
