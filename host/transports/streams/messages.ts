/** Messages of clients over WebSocket: JSON objects with a `type`, each judged by its schema. */
import { compileSchema, type CompiledSchema, type Json, NoaError, parseJson } from '@noa/sdk/host';

export type Message = { readonly [name: string]: Json };

/** The JSON of a text message. Throws INVALID_ARGUMENT. */
export function parseMessage(text: string): Message {
  let value: Json;
  try {
    value = parseJson(text);
  } catch (error) {
    throw new NoaError('INVALID_ARGUMENT', 'the message is not valid JSON', { cause: error });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw new NoaError('INVALID_ARGUMENT', 'the message is no JSON object');
}

/** A message of one of these types. Throws INVALID_ARGUMENT. */
export function readMessage<M>(
  schemas: { readonly [type: string]: CompiledSchema },
  given: Message,
): M {
  const { type } = given;
  const check = typeof type === 'string' && Object.hasOwn(schemas, type) && schemas[type];
  if (!check) {
    const known = Object.keys(schemas).join(', ');
    throw new NoaError('INVALID_ARGUMENT', `type: must be one of ${known}`);
  }
  const broken = check(given);
  if (broken.length === 0) return given as M; // as its schema says
  const text = broken.map(({ path, message: why }) => `${path} ${why}`.trimStart()).join('; ');
  throw new NoaError('INVALID_ARGUMENT', `the message: ${text}`);
}

/** The check of a message with these members beside its type. */
export function message(
  properties: { readonly [name: string]: object },
  required: readonly string[] = [],
): CompiledSchema {
  return compileSchema({
    type: 'object',
    properties: { type: { type: 'string' }, ...properties },
    required: ['type', ...required],
    additionalProperties: false,
  });
}
