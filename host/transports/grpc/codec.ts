/**
 * Messages as the JSON that plugins take and give: members are the fields by their names in `proto/`, and
 * a field NAME_json holds the JSON text of the member NAME. Invariant: what a plugin answers is checked
 * member by member against the message; nothing is dropped or bent to fit.
 */
import { type Json, NoaError, parseJson } from '@noa/sdk/host';
import type { PackageDefinition } from '@grpc/proto-loader';

const SUFFIX = '_json';

type Kind = 'string' | 'boolean' | 'number' | 'int32' | 'uint32';

interface Field {
  readonly name: string;
  readonly isRepeated: boolean;
  readonly kind: Kind | Shape;
  /** The member is any JSON value, the field its text. */
  readonly isJson: boolean;
}

/** The members of a message. */
export interface Shape {
  readonly message: string;
  readonly members: ReadonlyMap<string, Field>;
}

const KINDS: { readonly [type: string]: Kind } = {
  TYPE_STRING: 'string',
  TYPE_BOOL: 'boolean',
  TYPE_DOUBLE: 'number',
  TYPE_INT32: 'int32',
  TYPE_UINT32: 'uint32',
};

/** What is read of a FieldDescriptorProto. */
interface FieldDescriptor {
  readonly name: string;
  readonly label: string;
  readonly type: string;
  readonly typeName: string;
}

/** The shape of a message by its full name. Throws TypeError for what this codec does not carry. */
export function shapeOf(definitions: PackageDefinition, message: string): Shape {
  const found = definitions[message];
  if (found === undefined || !('format' in found)) throw new TypeError(`no message ${message}`);
  const { field: fields } = found.type as { readonly field: readonly FieldDescriptor[] };
  const members = new Map<string, Field>();
  for (const { name, label, type, typeName } of fields) {
    const scope = message.slice(0, message.lastIndexOf('.') + 1);
    const kind = type === 'TYPE_MESSAGE' ? shapeOf(definitions, scope + typeName) : KINDS[type];
    if (kind === undefined) throw new TypeError(`${message}.${name} is a ${type}`);
    const field = { name, isRepeated: label === 'LABEL_REPEATED', kind, isJson: false };
    members.set(name, field);
    if (!name.endsWith(SUFFIX)) continue;
    const plain = name.slice(0, -SUFFIX.length);
    if (members.has(plain)) throw new TypeError(`${message} has both ${plain} and ${name}`);
    members.set(plain, { ...field, isJson: true });
  }
  return { message, members };
}

/** A request as a plugin gets it. Throws INVALID_ARGUMENT for JSON text that is over a bound. */
export function toInput(shape: Shape, message: object): Json {
  const input: { [member: string]: Json } = {};
  for (const [name, value] of Object.entries(message) as [string, Json][]) {
    input[name] = value;
    const member = name.endsWith(SUFFIX) ? name.slice(0, -SUFFIX.length) : name;
    if (typeof value !== 'string' || !shape.members.get(member)?.isJson) continue;
    const parsed = parsedOf(name, value);
    if (parsed !== undefined) input[member] = parsed;
  }
  return input;
}

function parsedOf(name: string, text: string): Json | undefined {
  if (text === '') return undefined; // a field that was not sent; the parser's error costs more than the call
  let value: Json;
  try {
    value = parseJson(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    const why = error instanceof Error ? error.message : 'it cannot be read';
    throw new NoaError('INVALID_ARGUMENT', `${name}: ${why}; send less at a time`, {
      cause: error,
    });
  }
  // As in a body of HTTP; an escape could spell either name.
  if (/__proto__|constructor|\\u/.test(text)) refusePrototypes(name, text);
  return value;
}

function refusePrototypes(name: string, text: string): void {
  JSON.parse(text, (key, value: unknown) => {
    const isPrototype = typeof value === 'object' && value !== null && 'prototype' in value;
    if (key !== '__proto__' && !(key === 'constructor' && isPrototype)) return value;
    const rule = 'may not have a member __proto__, or constructor with a member prototype';
    throw new NoaError('INVALID_ARGUMENT', `${name}: the JSON ${rule}`);
  });
}

/** The message that a plugin's output stands for. Throws PLUGIN_OUTPUT_INVALID, which names the member. */
export function toMessage(shape: Shape, output: Json, path = ''): { [field: string]: unknown } {
  if (typeof output !== 'object' || output === null || Array.isArray(output)) {
    throw invalid(path, `must be an object with the members of ${shape.message}`);
  }
  const message: { [field: string]: unknown } = {};
  for (const [member, value] of Object.entries(output)) {
    const field = shape.members.get(member);
    const at = `${path}/${member}`;
    if (field === undefined) {
      const known = [...shape.members.keys()].join(', ');
      throw invalid(at, `is no member of ${shape.message}; it has ${known}`);
    }
    if (value === null && !field.isJson) continue; // as in the JSON form of protobuf
    if (message[field.name] !== undefined) {
      throw invalid(at, `says a second time what ${field.name} is`);
    }
    message[field.name] = fieldOf(field, value, at);
  }
  return message;
}

function fieldOf({ kind, isRepeated, isJson }: Field, value: Json, path: string): unknown {
  if (isJson) return JSON.stringify(value);
  if (!isRepeated) return valueOf(kind, value, path);
  if (!Array.isArray(value)) throw invalid(path, 'must be an array');
  return value.map((item, index) => valueOf(kind, item, `${path}/${index}`));
}

function valueOf(kind: Kind | Shape, value: Json, path: string): unknown {
  if (typeof kind === 'object') return toMessage(kind, value, path);
  switch (kind) {
    case 'string':
      // A lone surrogate has no form in UTF-8.
      if (typeof value === 'string') return value.toWellFormed();
      break;
    case 'boolean':
      if (typeof value === 'boolean') return value;
      break;
    case 'number':
      if (typeof value === 'number') return value;
      break;
    case 'int32':
      if (typeof value === 'number' && value === (value | 0)) return value;
      break;
    case 'uint32':
      if (typeof value === 'number' && value === value >>> 0) return value;
      break;
  }
  throw invalid(path, `must be a ${kind}`);
}

function invalid(path: string, rule: string): NoaError {
  const where = path === '' ? 'the output' : `the output: ${path.slice(0, 200)}`;
  return new NoaError('PLUGIN_OUTPUT_INVALID', `${where} ${rule}`);
}
