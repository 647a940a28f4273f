/** Web APIs that the build puts into a bundle whose source names them, and into no other. */
export { TextDecoder, TextEncoder } from './encoding.ts';
export { AbortController, AbortSignal, Event, EventTarget } from './events.ts';
export { fetch, Response } from './fetch.ts';
export { Headers } from './headers.ts';
export { structuredClone } from './structured-clone.ts';
export { URL } from './url.ts';
export { URLSearchParams } from './url-search-params.ts';
