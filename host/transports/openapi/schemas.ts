/**
 * The schemas of the document. Invariant: every reference in what is handed out leads to a schema under
 * `components`, a host's under its title, a plugin's under the plugin's name, and nothing lies there that
 * is not referred to.
 */
import { isSchema, type JsonSchema, resolveRef, subschemas } from '@noa/sdk/host';

const AT = '#/components/schemas/';
/** Of our own schemas; other titles are mere words. */
const NAMED = /^[A-Z][A-Za-z0-9]*$/;

export class Schemas {
  readonly #named = new Map<string, JsonSchema>();

  /** A schema of the host's own, its named parts replaced by references. */
  place(schema: JsonSchema): JsonSchema {
    const { title } = schema;
    if (typeof title !== 'string' || !NAMED.test(title)) return this.#inner(schema) as JsonSchema;
    const placed = this.#inner(schema) as JsonSchema;
    const known = this.#named.get(title);
    if (known !== undefined && JSON.stringify(known) !== JSON.stringify(placed)) {
      throw new Error(`two schemas of the API are called ${title}: give one another title`);
    }
    this.#named.set(title, placed);
    return { $ref: AT + title };
  }

  #inner(value: unknown): unknown {
    if (Array.isArray(value)) return value.map((item) => this.#part(item));
    if (!isSchema(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, this.#part(part)]));
  }

  #part(value: unknown): unknown {
    return isSchema(value) ? this.place(value) : this.#inner(value);
  }

  /**
   * A schema of a plugin, under `name`. What it refers to inside itself becomes a schema of its own:
   * few tools follow a reference into the midst of another.
   */
  adopt(name: string, root: JsonSchema): JsonSchema {
    const known = this.#named.get(name);
    if (known !== undefined) return known;
    const names = new Map([['#', name]]);
    const place = (schema: JsonSchema, as: string): JsonSchema => {
      const copy = structuredClone(schema);
      this.#named.set(as, copy);
      relocate(copy, (ref) => {
        const found = names.get(ref) ?? this.#free(name + ref.replaceAll(/[^A-Za-z0-9]+/g, '.'));
        if (!names.has(ref)) {
          names.set(ref, found);
          const target = resolveRef(root, ref);
          place(isSchema(target) ? target : target === false ? { not: {} } : {}, found);
        }
        return AT + found;
      });
      return copy;
    };
    return place(root, name);
  }

  #free(name: string): string {
    let free = name;
    for (let number = 2; this.#named.has(free); number += 1) free = `${name}.${number}`;
    return free;
  }

  /** What a reference leads to. */
  at(reference: unknown): JsonSchema | undefined {
    return typeof reference === 'string' ? this.#named.get(reference.slice(AT.length)) : undefined;
  }

  reference(name: string): JsonSchema {
    return { $ref: AT + name };
  }

  /** Those that `used` refers to, directly or through others, by name. */
  referred(used: unknown): { [name: string]: JsonSchema } {
    const found = new Map<string, JsonSchema>();
    const waiting = [...references(used)];
    for (let ref = waiting.pop(); ref !== undefined; ref = waiting.pop()) {
      const name = ref.slice(AT.length);
      const schema = this.#named.get(name);
      if (schema === undefined || found.has(name)) continue;
      found.set(name, schema);
      waiting.push(...references(schema));
    }
    return Object.fromEntries([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}

/** Leads the references of a schema that becomes part of a document to where they lie there. */
function relocate(schema: { [keyword: string]: unknown }, to: (ref: string) => string): void {
  const { $ref } = schema;
  if (typeof $ref === 'string') schema['$ref'] = to($ref);
  delete schema['$schema'];
  delete schema['$defs'];
  for (const { schema: inner } of subschemas(schema)) if (isSchema(inner)) relocate(inner, to);
}

function* references(value: unknown): Generator<string> {
  if (typeof value !== 'object' || value === null) return;
  for (const [key, part] of Object.entries(value)) {
    if (key === '$ref' && typeof part === 'string' && part.startsWith(AT)) yield part;
    else yield* references(part);
  }
}
