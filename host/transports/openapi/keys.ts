/** Idempotency-Key in the document: on each operation that takes one. */
import type { ErrorCode } from '@noa/sdk/host';
import { takesKey } from '../idempotency.ts';
import { type Parameter, parameter } from './paths.ts';

const KEY = parameter('idempotency-key', 'header', false, {
  type: 'string',
  maxLength: 512,
  description:
    'Names the request, so that it is executed once however often it is sent: 1 to 255 visible ASCII characters, best in quotes (draft-ietf-httpapi-idempotency-key-header).',
});
const ERRORS: readonly ErrorCode[] = ['CONFLICT', 'IDEMPOTENCY_MISMATCH'];

export function keyOf(method: string): readonly Parameter[] {
  return takesKey(method) ? [KEY] : [];
}

export function keyErrorsOf(method: string): readonly ErrorCode[] {
  return takesKey(method) ? ERRORS : [];
}
