/**
 * The guest's way to the host: one request text in, one envelope text out, never a rejection. The text
 * comes from a guest; whether it may do what it asks is decided behind `invoke`.
 */
import { NoaError, parseJson } from '@noa/sdk/host';
import type { ErrorBody, Json } from '@noa/sdk/host';
import type { RuntimeCall } from '../../kernel/loader.ts';
import type { Attachments } from './attachment.ts';

/**
 * Answers `{ok: true, value}` or `{ok: false, error}` as JSON text of at most `maxBytes`, and in
 * `attachments`, where the guest asked for them, as many bytes beside it.
 */
export async function answer(
  request: string,
  call: RuntimeCall,
  signal: AbortSignal,
  maxBytes: number,
  attachments?: Attachments,
): Promise<string> {
  try {
    const { capability, operation, input } = parse(request);
    const name = `${capability}.${operation}`;
    const given = attachments === undefined ? input : attachments.resolve(name, input);
    const whole = (await call.invoke(capability, operation, given, signal)) ?? null;
    const value = attachments === undefined ? whole : attachments.extract(name, whole);
    const envelope = JSON.stringify({ ok: true, value });
    const beside = attachments?.reply?.length ?? 0;
    const fits = envelope.length * 3 <= maxBytes || Buffer.byteLength(envelope) <= maxBytes;
    if (fits && beside <= maxBytes) return envelope;
    throw new NoaError(
      'RESOURCE_EXHAUSTED',
      `The reply of ${name} is over ${maxBytes} bytes; ask for less at a time.`,
    );
  } catch (error) {
    attachments?.clear();
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
