/** What plugin authors import. */
export { NoaError, type ErrorCode } from './errors.ts';
export type { Json } from './json.ts';
