/**
 * What `metadata_json` of a gRPC call says. Invariant: what comes out has the form that the schema of /v1/infer
 * asks of a body, for no schema judges the text of a field.
 */
import { type Json, NoaError } from '@noa/sdk';
import type { InferInput } from './noa.gen.ts';

type Members = { readonly [name: string]: Json };
/** The members that /v1/infer takes besides the model and a prompt. */
export type Rest = Pick<InferInput, 'inputs' | 'messages' | 'parameters' | 'cache'>;

const MAX_MODEL = 128;
const MAX_NAME = 256;
const MAX_LIST = 256;
const MAX_TENSORS = 64;
const MAX_RANK = 8;
const MAX_TTL_SECONDS = 86_400;

/** Throws INVALID_ARGUMENT that names the member. */
export function readMetadata(
  { metadata, metadata_json: text = '' }: Members,
  preset: string,
): { model: string; rest: Rest } {
  const given = metadata ?? (text === '' ? {} : null);
  if (!isMembers(given)) throw wrong('must be the text of a JSON object');
  const { model = preset, inputs, messages, parameters, cache } = given;
  if (typeof model !== 'string' || model === '' || model.length > MAX_MODEL) {
    throw wrong(`model must be the id of a model, of 1 to ${MAX_MODEL} characters`);
  }
  const rest: Rest = {
    ...(inputs !== undefined && { inputs: inputsOf(inputs) }),
    ...(messages !== undefined && { messages: messagesOf(messages) }),
    ...(parameters !== undefined && { parameters: parametersOf(parameters) }),
    ...(cache !== undefined && { cache: cacheOf(cache) }),
  };
  return { model, rest };
}

function inputsOf(inputs: Json): NonNullable<Rest['inputs']> {
  if (typeof inputs === 'string') return inputs;
  if (isTexts(inputs)) return inputs;
  if (Array.isArray(inputs) && inputs.length > 0 && inputs.length <= MAX_TENSORS) {
    const tensors = inputs.filter(isTensor);
    if (tensors.length === inputs.length) return tensors;
  }
  if (isMembers(inputs)) {
    const { query, texts } = inputs;
    if (typeof query === 'string' && isTexts(texts)) return { query, texts };
  }
  const tensors = `up to ${MAX_TENSORS} tensors {name, shape, datatype, data}`;
  throw wrong(`inputs must be a text, up to ${MAX_LIST} texts, {query, texts}, or ${tensors}`);
}

function isTexts(value: Json | undefined): value is string[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_LIST) return false;
  return value.every((each) => typeof each === 'string');
}

function isTensor(
  value: Json,
): value is { name: string; shape: number[]; datatype: string; data: Json[] } {
  if (!isMembers(value)) return false;
  const { name, shape, datatype, data } = value;
  const isNamed = typeof name === 'string' && name !== '' && name.length <= MAX_NAME;
  if (!isNamed || typeof datatype !== 'string' || !Array.isArray(data)) return false;
  if (!Array.isArray(shape) || shape.length > MAX_RANK) return false;
  return shape.every((size) => Number.isSafeInteger(size) && Number(size) >= 0);
}

/** What is in them the capability judges, which every message comes to. */
function messagesOf(messages: Json): NonNullable<Rest['messages']> {
  const list = Array.isArray(messages) ? messages : [];
  const told = list.filter(hasRole);
  if (told.length > 0 && told.length === list.length) return told;
  throw wrong('messages must be a list of objects that have a role');
}

function hasRole(message: Json): message is { role: string } {
  return isMembers(message) && typeof message['role'] === 'string';
}

function parametersOf(parameters: Json): NonNullable<Rest['parameters']> {
  if (isMembers(parameters)) return parameters;
  throw wrong('parameters must be an object');
}

function cacheOf(cache: Json): NonNullable<Rest['cache']> {
  const ttl = isMembers(cache) ? cache['ttl_seconds'] : undefined;
  const isCount = typeof ttl === 'number' && Number.isInteger(ttl);
  if (isCount && ttl >= 1 && ttl <= MAX_TTL_SECONDS) return { ttl_seconds: ttl };
  throw wrong(`cache must be {ttl_seconds}, a whole number from 1 to ${MAX_TTL_SECONDS}`);
}

function isMembers(value: Json | undefined): value is { [name: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function wrong(rule: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `metadata_json: ${rule}`);
}
