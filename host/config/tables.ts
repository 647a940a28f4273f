/**
 * The kind of value that is a list of tables (`[[auth.issuers]]` in TOML, a JSON array in the environment).
 * What one table may hold is a JSON Schema, so a fault is named with its place and rule.
 */
import { compileSchema, type CompiledSchema, type JsonSchema } from '@noa/sdk/host';
import type { About, Key, Resolve } from './kinds.ts';

const MAX_TABLES = 1000;
/** Faults of one key that are told. */
const MAX_TOLD = 20;

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
  const judge = (value: unknown, resolve: Resolve = String) => {
    compiled ??= compileSchema(all, { defaults: true, described: true, all: true });
    let read = typeof value === 'string' ? parse(value) : structuredClone(value);
    try {
      if (about.references) read = resolved(read, resolve);
    } catch (error) {
      return { fault: error instanceof Error ? error.message : String(error) };
    }
    const broke = compiled(read).map(({ path, message }) => `${path} ${message}`.trimStart());
    if (broke.length > 0) return { fault: told(broke) };
    const list = read as T[]; // as the schema says
    const faults = list.flatMap((table, index) => {
      const [path, rule] = broken(table) ?? [];
      return path === undefined ? [] : [`/${index}${path} ${rule}`];
    });
    const doubles = unique.map((name) => repeated(list, name)).filter((text) => text !== undefined);
    return { list, fault: told([...faults, ...doubles]) };
  };
  return {
    ...about,
    rule: 'a list of tables, as TOML or as the text of a JSON array',
    default: undefined,
    form: '[{ … }]',
    read: (value, _cwd, resolve) => {
      const { list, fault } = judge(value, resolve);
      return list === undefined || fault !== undefined ? undefined : freeze(list);
    },
    fault: (value, resolve) => judge(value, resolve).fault,
  };
}

/** All of them in one text, as far as a person reads. */
function told(faults: readonly string[]): string | undefined {
  if (faults.length === 0) return undefined;
  const more = faults.length > MAX_TOLD ? `; and ${faults.length - MAX_TOLD} more` : '';
  return `${faults.slice(0, MAX_TOLD).join('; ')}${more}`;
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

/** The value with each text in it resolved; of an Error, the message says where. */
function resolved(value: unknown, resolve: Resolve, path = ''): unknown {
  if (Array.isArray(value)) return value.map((item, i) => resolved(item, resolve, `${path}/${i}`));
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value);
    return Object.fromEntries(
      members.map(([name, item]) => [name, resolved(item, resolve, `${path}/${name}`)]),
    );
  }
  if (typeof value !== 'string') return value;
  try {
    return resolve(value);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`${path} ${why}`, { cause });
  }
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    Object.values(value).forEach(freeze);
    Object.freeze(value);
  }
  return value;
}
