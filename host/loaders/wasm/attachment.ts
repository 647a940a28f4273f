/**
 * Bytes that travel beside a capability call's JSON (sdk/abi.md, "Attachments"). Where they may stand is
 * read from the schemas of the operation tables; drivers and the broker see base64 as ever. What a
 * request unfolds to is never more than the bytes that came with it.
 */
import type { Capability, Json, JsonSchema } from '@noa/sdk/host';
import { NoaError } from '@noa/sdk/host';

/** From the arguments or the value to a member; `*` is every item of an array or member of a map. */
type Path = readonly string[];

/** By `capability.operation`: the members that are base64. JSON-able. */
export interface BytesTable {
  readonly [operation: string]: {
    readonly input: readonly Path[];
    readonly output: readonly Path[];
  };
}

/** The table of these capabilities: members whose schema has `contentEncoding: "base64"`. */
export function bytesTable(capabilities: readonly Capability[]): BytesTable {
  const entries = capabilities.flatMap(({ name, operations }) =>
    Object.entries(operations).map(([operation, { input, output }]) => {
      return [`${name}.${operation}`, { input: find(input), output: find(output) }] as const;
    }),
  );
  return Object.fromEntries(
    entries.filter(([, { input, output }]) => input.length + output.length > 0),
  );
}

function find(schema: JsonSchema): readonly Path[] {
  const found = new Map<string, Path>();
  const visit = (value: unknown, path: Path): void => {
    if (typeof value !== 'object' || value === null) return;
    const { contentEncoding, properties, items, additionalProperties, ...rest } =
      value as JsonSchema;
    if (contentEncoding === 'base64') found.set(JSON.stringify(path), path);
    for (const [name, inner] of Object.entries(properties ?? {})) visit(inner, [...path, name]);
    for (const inner of [items, additionalProperties]) visit(inner, [...path, '*']);
    for (const choices of [rest['oneOf'], rest['anyOf'], rest['allOf']]) {
      if (Array.isArray(choices)) for (const inner of choices) visit(inner, path);
    }
  };
  visit(schema, []);
  return [...found.values()];
}

/** The attachments of one call, both ways. */
export class Attachments {
  readonly #table: BytesTable;
  readonly #request: Buffer;
  #reply: Buffer | undefined;

  constructor(table: BytesTable, request: Uint8Array | null) {
    this.#table = table;
    const { buffer, byteOffset, byteLength } = request ?? new Uint8Array();
    this.#request = Buffer.from(buffer, byteOffset, byteLength);
  }

  /** What goes beside the reply; undefined when that is nothing. */
  get reply(): Uint8Array | undefined {
    return this.#reply;
  }

  /** A refusal has nothing beside it. */
  clear(): void {
    this.#reply = undefined;
  }

  /** The arguments with base64 in place of `$bytes`. Throws NoaError for bytes that are not there. */
  resolve(operation: string, input: Json): Json {
    const request = this.#request;
    let left = request.length;
    return rewrite(input, this.#table[operation]?.input ?? [], (member) => {
      const place = placeOf(member);
      if (place === undefined) return member;
      const [offset, length] = place;
      left -= length;
      if (offset + length > request.length || left < 0) {
        throw new NoaError(
          'INVALID_ARGUMENT',
          `${operation}: the arguments name ${length} bytes at ${offset} of an attachment of ${request.length}; ` +
            'each must lie in it, and together they may be no more than it has.',
        );
      }
      return request.toString('base64', offset, offset + length);
    });
  }

  /** The value with `$bytes` in place of base64, whose bytes become `reply`. */
  extract(operation: string, value: unknown): unknown {
    const parts: Buffer[] = [];
    let end = 0;
    const bare = rewrite(value, this.#table[operation]?.output ?? [], (member) => {
      if (typeof member !== 'string') return member;
      const bytes = Buffer.from(member, 'base64');
      parts.push(bytes);
      end += bytes.length;
      return { $bytes: [end - bytes.length, bytes.length] };
    });
    if (end > 0) this.#reply = Buffer.concat(parts, end);
    return bare;
  }
}

function placeOf(member: unknown): readonly [offset: number, length: number] | undefined {
  if (typeof member !== 'object' || member === null) return undefined;
  const [[key, place] = ['', null], ...more] = Object.entries(member);
  if (key !== '$bytes' || more.length > 0 || !Array.isArray(place)) return undefined;
  const numbers: readonly unknown[] = place;
  const [offset, length] = numbers;
  const counts = numbers.every((each) => Number.isSafeInteger(each) && Number(each) >= 0);
  return numbers.length === 2 && counts ? [Number(offset), Number(length)] : undefined;
}

/** A copy along the paths; what is on none of them is shared with the original. */
function rewrite<Value>(
  value: Value,
  paths: readonly Path[],
  change: (member: unknown) => unknown,
): Value {
  return paths.reduce<unknown>((whole, path) => follow(whole, path, change), value) as Value;
}

function follow(value: unknown, path: Path, change: (member: unknown) => unknown): unknown {
  const [step, ...rest] = path;
  if (step === undefined) return change(value);
  if (typeof value !== 'object' || value === null) return value;
  const inner = (member: unknown): unknown => follow(member, rest, change);
  if (Array.isArray(value)) return step === '*' ? value.map(inner) : value;
  const chosen = Object.entries(value).map(([name, member]: [string, unknown]) => {
    return [name, step === '*' || step === name ? inner(member) : member] as const;
  });
  return Object.fromEntries(chosen);
}
