/**
 * Bounds the work of one check. What a check compares is known only when its value is: a schema that
 * looks at one place a thousand times is fine until the value has a hundred thousand such places. So
 * every part of a schema says what it costs at worst when it is used. Invariant: what a check is held to
 * is that cost, or the thread's own time where that is less; so a busy machine or a collection of
 * garbage refuses no value, and a value of ordinary size is judged without looking at the clock.
 */
import { _, type Ajv2020 } from 'ajv/dist/2020.js';
import type { JsonSchema } from './json.ts';
import { isSchema, subschemas } from './schema-walk.ts';

/** What one unit of cost takes at most. */
const MS_PER_UNIT = 50e-6;
/** Units between two looks at the clock. */
const SLICE = 100_000;
/** Milliseconds for one check, beyond its first slice. */
const MAX_MS = 50;
/** Units of one step, which cannot be ended half-way. */
const MAX_STEP = 600_000;

/** A check was given up; the message says why, of the value. */
export class TooMuchWork extends Error {}

export class Meter {
  #slice = 0;
  #ms = 0;
  #clock: number | undefined;

  /** Begins a check. */
  start(): void {
    this.#slice = 0;
    this.#ms = 0;
    this.#clock = undefined;
  }

  /** Throws TooMuchWork when the check takes too long; asked before each step. */
  spend(units: number): void {
    if (units > MAX_STEP) throw new TooMuchWork('is too large for its schema');
    this.#slice += units;
    if (this.#slice < SLICE) return;
    const now = threadMs();
    if (this.#clock !== undefined) {
      this.#ms += Math.min(now - this.#clock, this.#slice * MS_PER_UNIT);
    }
    if (this.#ms > MAX_MS) throw new TooMuchWork('takes too long to check');
    this.#clock = now;
    this.#slice = 0;
  }

  /** Takes a match of a pattern of so many instructions with so many characters. */
  match(instructions: number, characters: number): number {
    // A state of the matcher is a set of instructions; each is made once, then a step is a look-up.
    const states = instructions < 12 ? 2 ** instructions * instructions : Infinity;
    const units = Math.min(characters, states) * instructions + characters;
    if (units > MAX_STEP) throw new TooMuchWork('holds a text that is too long for its pattern');
    this.spend(units);
    return units;
  }
}

function threadMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

/** The mark on a part of a schema. */
export const COST = 'noa:cost';

interface Cost {
  /** What one use costs, whatever the value. */
  readonly least: number;
  /** Whether elements are compared with each other, and how: by a look-up, or each pair as a whole. */
  readonly unique: 'no' | 'scalars' | 'pairs';
}

/** Makes the parts of schemas that `metered` has marked spend on this meter, before they do anything. */
export function attach(meter: Meter, ajv: Ajv2020): void {
  const spend = ({ least, unique }: Cost, value: unknown): void =>
    meter.spend(least + extent(value) + (Array.isArray(value) ? comparisons(value, unique) : 0));
  ajv.addKeyword({
    keyword: COST,
    schemaType: 'object',
    code({ gen, data, schema }) {
      const take = gen.scopeValue('func', { ref: spend });
      const cost = gen.scopeValue('schema', { ref: schema as Cost });
      gen.code(_`${take}(${cost}, ${data})`);
    },
  });
  // ajv judges numbers and texts first and ends at a violation: the mark goes before them.
  const { rules } = ajv.RULES;
  const general = rules.find(({ type }) => type === undefined);
  const rule = general?.rules.pop();
  if (rule?.keyword !== COST) throw new Error('ajv keeps its rules in another order');
  rules.unshift({ rules: [rule] });
}

/** A copy of the schema with a mark on each part. */
export function metered(schema: JsonSchema): JsonSchema {
  const copy: Markable = structuredClone(schema);
  const pending = [copy];
  for (let part = pending.pop(); part !== undefined; part = pending.pop()) {
    const { enum: values, required, uniqueItems, items } = part;
    const inner = [...subschemas(part)].map((each) => each.schema).filter(isMarkable);
    const listed = [values, required].map((list) => (Array.isArray(list) ? list.length : 0));
    const least = listed.reduce((sum, length) => sum + length, 1 + inner.length);
    pending.push(...inner);
    const unique = uniqueItems !== true ? 'no' : hasScalarItems(items) ? 'scalars' : 'pairs';
    part[COST] = { least, unique } satisfies Cost;
  }
  return copy;
}

/** The copy is ours to write to. */
interface Markable {
  [keyword: string]: unknown;
}

function isMarkable(value: unknown): value is Markable {
  return isSchema(value);
}

/** What looking at all of a value at one level takes. */
function extent(value: unknown): number {
  if (typeof value === 'string') return value.length / 32;
  if (typeof value !== 'object' || value === null) return 0;
  // Members of a large object are looked up one by one, in a table that no cache holds.
  return Array.isArray(value) ? value.length : Object.keys(value).length * 6;
}

/** What `uniqueItems` takes. */
function comparisons(list: readonly unknown[], unique: Cost['unique']): number {
  if (unique === 'no') return 0;
  return unique === 'scalars' ? list.length * 20 : (list.length * weight(list)) / 32;
}

/** Whether `items` admits one scalar type only, by which ajv compares with a look-up. */
export function hasScalarItems(items: unknown): boolean {
  const type = isSchema(items) ? items['type'] : undefined;
  return typeof type === 'string' && type !== 'object' && type !== 'array';
}

/** Values inside a value, which is JSON of bounded depth, with what its texts take to compare. */
function weight(value: unknown): number {
  if (typeof value === 'string') return 1 + value.length / 64;
  if (typeof value !== 'object' || value === null) return 1;
  const inside: unknown[] = Object.values(value);
  return inside.reduce((sum: number, inner) => sum + weight(inner), 1);
}
