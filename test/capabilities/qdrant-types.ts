/**
 * Qdrant's own types as schemas: what its client's `generated_schema.d.ts` says of each request and answer,
 * read by a small parser of the TypeScript that the generator writes. Members that a type does not name are
 * refused, so a misspelt one is found.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type CompiledSchema, compileSchema, type JsonSchema } from '@noa/sdk/host';

type Type =
  | { readonly kind: 'object'; readonly members: ReadonlyMap<string, Member>; readonly rest?: Type }
  | { readonly kind: 'union'; readonly parts: readonly Type[] }
  | { readonly kind: 'array'; readonly of: Type }
  | { readonly kind: 'literal'; readonly value: string | number }
  | { readonly kind: 'word'; readonly word: string }
  | { readonly kind: 'reference'; readonly path: readonly string[] }
  | { readonly kind: 'nothing' };

interface Member {
  readonly type: Type;
  readonly isOptional: boolean;
}

const TOKEN = /\s+|\/\*[\s\S]*?\*\/|("(?:[^"\\]|\\.)*"|[A-Za-z_$][\w$]*|-?\d+|[{}()[\]|:;?<>,=])/y;

class Parser {
  readonly #tokens: string[] = [];
  #at = 0;

  constructor(text: string) {
    TOKEN.lastIndex = 0;
    while (TOKEN.lastIndex < text.length) {
      const from = TOKEN.lastIndex;
      const match = TOKEN.exec(text);
      if (match === null) throw new SyntaxError(`not understood: ${text.slice(from, from + 60)}`);
      if (match[1] !== undefined) this.#tokens.push(match[1]);
    }
  }

  /** The interfaces of the file by their names. */
  interfaces(): Map<string, Type> {
    const found = new Map<string, Type>();
    while (this.#at < this.#tokens.length) {
      if (this.#next() === 'interface') found.set(this.#next(), this.#type());
    }
    return found;
  }

  #next(): string {
    this.#at += 1;
    return this.#tokens[this.#at - 1] ?? '';
  }

  #take(token: string): boolean {
    if (this.#tokens[this.#at] !== token) return false;
    this.#at += 1;
    return true;
  }

  #expect(token: string): void {
    const found = this.#next();
    if (found !== token) throw new SyntaxError(`${token} was expected before ${found}`);
  }

  #type(): Type {
    const parts = [this.#postfixed()];
    while (this.#take('|')) parts.push(this.#postfixed());
    return parts.length === 1 && parts[0] ? parts[0] : { kind: 'union', parts };
  }

  #postfixed(): Type {
    let type = this.#plain();
    while (this.#take('[')) {
      if (this.#take(']')) type = { kind: 'array', of: type };
      else {
        if (type.kind !== 'reference') throw new SyntaxError('an index of what is no interface');
        type = { kind: 'reference', path: [...type.path, JSON.parse(this.#next()) as string] };
        this.#expect(']');
      }
    }
    return type;
  }

  #plain(): Type {
    const token = this.#next();
    if (token === '{') return this.#object();
    if (token === '(') {
      const type = this.#type();
      this.#expect(')');
      return type;
    }
    if (/^["\d-]/.test(token)) {
      return { kind: 'literal', value: JSON.parse(token) as string | number };
    }
    if (token === 'OneOf' && this.#take('<')) {
      this.#expect('[');
      const parts = [this.#type()];
      while (this.#take(',')) parts.push(this.#type());
      this.#expect(']');
      this.#expect('>');
      return { kind: 'union', parts };
    }
    // `X | (Record<string, unknown> | null)` is how the generator writes that X may be null.
    if (token === 'Record' && this.#take('<')) {
      while (!this.#take('>')) this.#next();
      return { kind: 'nothing' };
    }
    if (['components', 'operations'].includes(token)) return { kind: 'reference', path: [token] };
    return { kind: 'word', word: token };
  }

  #object(): Type {
    const members = new Map<string, Member>();
    let rest: Type | undefined;
    while (!this.#take('}')) {
      if (this.#take('[')) {
        while (!this.#take(']')) this.#next();
        this.#expect(':');
        rest = this.#type();
      } else {
        const token = this.#next();
        const isOptional = this.#take('?');
        this.#expect(':');
        const name = token.startsWith('"') ? (JSON.parse(token) as string) : token;
        members.set(name, { type: this.#type(), isOptional });
      }
      this.#expect(';');
    }
    return { kind: 'object', members, ...(rest && { rest }) };
  }
}

const NOTHING: JsonSchema = { not: {} };

const WORDS: { readonly [word: string]: JsonSchema } = {
  string: { type: 'string' },
  number: { type: 'number' },
  boolean: { type: 'boolean' },
  null: { type: 'null' },
  unknown: {},
  undefined: NOTHING,
};

function schemaOf(type: Type): JsonSchema {
  switch (type.kind) {
    case 'object': {
      const members = [...type.members];
      return {
        type: 'object',
        properties: Object.fromEntries(members.map(([name, each]) => [name, schemaOf(each.type)])),
        required: members.filter(([, { isOptional }]) => !isOptional).map(([name]) => name),
        additionalProperties: type.rest === undefined ? false : schemaOf(type.rest),
      };
    }
    case 'union':
      return { anyOf: type.parts.map(schemaOf) };
    case 'array':
      return { type: 'array', items: schemaOf(type.of) };
    case 'literal':
      return { const: type.value };
    case 'nothing':
      return NOTHING;
    case 'reference': {
      const [root, schemas, name] = type.path;
      if (root !== 'components' || schemas !== 'schemas') throw new SyntaxError(String(type.path));
      return { $ref: `#/$defs/${name}` };
    }
    case 'word': {
      const schema = WORDS[type.word];
      if (schema === undefined) throw new SyntaxError(`the type ${type.word} is not known`);
      return schema;
    }
  }
}

export interface QdrantOperation {
  readonly name: string;
  /** Names of the parts of the path, and what matches it. */
  readonly pattern: RegExp;
  readonly method: string;
  readonly query: ReadonlySet<string>;
  readonly judgeRequest: CompiledSchema;
  readonly judgeAnswer: CompiledSchema;
}

/** All operations of Qdrant's REST interface that this reads; `names` are those that are wanted. */
export function qdrantOperations(names: readonly string[]): QdrantOperation[] {
  const client = fileURLToPath(import.meta.resolve('@qdrant/js-client-rest'));
  const file = client.replace(/esm\/index\.js$/, 'types/openapi/generated_schema.d.ts');
  const text = readFileSync(file, 'utf8');
  const interfaces = new Parser(text.slice(text.indexOf('export interface'))).interfaces();
  const at = (type: Type | undefined, ...path: readonly string[]): Type | undefined =>
    path.reduce<Type | undefined>(
      (found, name) => (found?.kind === 'object' ? found.members.get(name)?.type : undefined),
      type,
    );
  const membersOf = (type: Type | undefined): readonly (readonly [string, Member])[] =>
    type?.kind === 'object' ? [...type.members] : [];

  const definitions = membersOf(at(interfaces.get('components'), 'schemas'));
  const $defs = Object.fromEntries(definitions.map(([name, { type }]) => [name, schemaOf(type)]));
  const checking = (schema: JsonSchema): CompiledSchema =>
    compileSchema({ allOf: [schema], $defs });

  const found: QdrantOperation[] = [];
  for (const [path, { type }] of membersOf(interfaces.get('paths'))) {
    for (const [method, operation] of membersOf(type)) {
      const name = operation.type.kind === 'reference' ? operation.type.path[1] : undefined;
      if (name === undefined || !names.includes(name)) continue;
      const of = at(interfaces.get('operations'), name);
      const body = at(of, 'requestBody', 'content', 'application/json');
      const answer = at(of, 'responses', '200', 'content', 'application/json', 'result');
      if (answer === undefined) throw new TypeError(`${name} has no answer`);
      found.push({
        name,
        method: method.toUpperCase(),
        pattern: new RegExp(`^${path.replaceAll(/\{(\w+)\}/g, '(?<$1>[^/]+)')}$`),
        query: new Set(membersOf(at(of, 'parameters', 'query')).map(([key]) => key)),
        judgeRequest: checking(body === undefined ? { type: 'null' } : schemaOf(body)),
        judgeAnswer: checking(schemaOf(answer)),
      });
    }
  }
  const missing = names.filter((name) => !found.some((each) => each.name === name));
  if (missing.length > 0) throw new TypeError(`Qdrant has no ${missing.join(', ')}`);
  return found;
}
