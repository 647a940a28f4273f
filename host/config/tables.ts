/**
 * The kind of value that is a list of tables (`[[auth.issuers]]` in TOML, a JSON array in the environment).
 * What one table may hold is a JSON Schema, so a fault is named with its place and rule.
 */
import { compileSchema, type CompiledSchema, type JsonSchema } from '@noa/sdk/host';
import type { About, Key } from './kinds.ts';

const MAX_TABLES = 1000;

/**
 * `T` is what `schema` describes of one table once its defaults are filled in. No two tables have the same
 * value of a member that is named `unique`. `broken` answers what of a table breaks a rule that the schema
 * cannot say: the path inside it, and the rule.
 */
export function tables<T extends object>(
  schema: JsonSchema,
  about: About,
  unique: readonly (keyof T & string)[] = [],
  broken: (table: T) => readonly [path: string, rule: string] | undefined = () => undefined,
): Key<readonly T[] | undefined> {
  const all: JsonSchema = { type: 'array', maxItems: MAX_TABLES, items: schema };
  let compiled: CompiledSchema | undefined;
  /** A host that starts without such tables compiles nothing. */
  const judge = (value: unknown) => {
    compiled ??= compileSchema(all, { defaults: true });
    const read = typeof value === 'string' ? parse(value) : structuredClone(value);
    const [first] = compiled(read);
    if (first !== undefined) return { fault: `${first.path} ${first.message}`.trimStart() };
    const list = read as T[]; // as the schema says
    for (const [index, table] of list.entries()) {
      const [path, rule] = broken(table) ?? [];
      if (path !== undefined) return { fault: `/${index}${path} ${rule}` };
    }
    return { list, fault: unique.map((name) => repeated(list, name)).find((text) => text) };
  };
  return {
    ...about,
    rule: 'a list of tables, as TOML or as the text of a JSON array',
    default: undefined,
    form: '[{ … }]',
    read: (value) => {
      const { list, fault } = judge(value);
      return list === undefined || fault !== undefined ? undefined : freeze(list);
    },
    fault: (value) => judge(value).fault,
  };
}

function repeated<T extends object>(
  list: readonly T[],
  name: keyof T & string,
): string | undefined {
  const seen = new Set<unknown>();
  const index = list.findIndex((table) => seen.size === seen.add(table[name]).size);
  return index < 0 ? undefined : `/${index}/${name} is that of another table`;
}

/** What is no JSON stays text, which no list is. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    Object.values(value).forEach(freeze);
    Object.freeze(value);
  }
  return value;
}
