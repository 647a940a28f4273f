/**
 * The guest's way to the host: one request text in, one envelope text out, never a rejection. The text
 * comes from a guest; whether it may do what it asks is decided behind `invoke`.
 */
import { NoaError, parseJson } from '@noa/sdk/host';
import type { ErrorBody, Json } from '@noa/sdk/host';
import type { RuntimeCall } from '../../kernel/loader.ts';

/** Answers `{ok: true, value}` or `{ok: false, error}` as JSON text of at most `maxBytes`. */
export async function answer(
  request: string,
  call: RuntimeCall,
  signal: AbortSignal,
  maxBytes: number,
): Promise<string> {
  try {
    const { capability, operation, input } = parse(request);
    const value = (await call.invoke(capability, operation, input, signal)) ?? null;
    const envelope = JSON.stringify({ ok: true, value });
    if (envelope.length * 3 <= maxBytes || Buffer.byteLength(envelope) <= maxBytes) return envelope;
    throw new NoaError(
      'RESOURCE_EXHAUSTED',
      `The reply of ${capability}.${operation} is over ${maxBytes} bytes; ask for less at a time.`,
    );
  } catch (error) {
    return refusal(error);
  }
}

/** Never throws: particulars that cannot be written as JSON are left out. */
function refusal(error: unknown): string {
  const body: ErrorBody =
    error instanceof NoaError
      ? error.toBody()
      : { code: 'INTERNAL', message: 'The host failed to carry out the operation.' };
  try {
    return JSON.stringify({ ok: false, error: body });
  } catch {
    const { code, message } = body;
    return JSON.stringify({ ok: false, error: { code, message } });
  }
}

function parse(request: string): { capability: string; operation: string; input: Json } {
  let value: unknown;
  try {
    value = parseJson(request);
  } catch (error) {
    if (error instanceof RangeError) {
      throw new NoaError('INVALID_ARGUMENT', `noa_call was given too much: ${error.message}.`);
    }
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    const { capability, operation, arguments: input = null } = value as { [key: string]: Json };
    if (typeof capability === 'string' && typeof operation === 'string') {
      return { capability, operation, input };
    }
  }
  throw new NoaError(
    'INVALID_ARGUMENT',
    'noa_call takes a block with JSON {"capability": string, "operation": string, "arguments": any}.',
  );
}
