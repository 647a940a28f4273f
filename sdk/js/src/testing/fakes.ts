/**
 * What stands behind a plugin under test in place of the host's drivers: a cache that really keeps, a
 * database and other plugins that the test scripts. They speak in operations and arguments, as the host
 * does, so that handlers run natively and the packed module meet the very same fakes.
 */
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import type { SqlParameter } from '../ports.ts';

/** JSON arguments of one operation, already copied. */
type Arguments = { readonly [name: string]: Json };

/** One SQL statement that the plugin ran. */
export interface RanStatement {
  readonly operation: 'query' | 'execute' | 'transaction';
  readonly sql: string;
  readonly params: readonly SqlParameter[];
}

/** Rows, or rows with another count than their number. */
export type SqlAnswer =
  | readonly object[]
  | { readonly rows: readonly object[]; readonly rowCount: number };
type SqlResponder = SqlAnswer | ((statement: RanStatement) => SqlAnswer);

export class FakeDb {
  /** Every statement so far, in order. */
  readonly statements: RanStatement[] = [];
  readonly #answers: { matches: (statement: RanStatement) => boolean; answer: SqlResponder }[] = [];

  /**
   * Answers statements that match. The latest match wins; a function may throw NoaError, as the database
   * would. A statement that nothing matches fails with INVALID_ARGUMENT.
   */
  onQuery(match: RegExp | ((statement: RanStatement) => boolean), answer: SqlResponder): this {
    const matches =
      match instanceof RegExp ? ({ sql }: RanStatement) => sql.search(match) >= 0 : match;
    this.#answers.unshift({ matches, answer });
    return this;
  }

  invoke(operation: string, args: Arguments): Json {
    if (operation === 'transaction') {
      const statements = Array.isArray(args['statements']) ? args['statements'] : [];
      return { results: statements.map((statement) => this.#run(operation, statement)) };
    }
    if (operation !== 'query' && operation !== 'execute') throw noOperation('db', operation);
    const result = this.#run(operation, args);
    return operation === 'query' ? { rows: result.rows } : result;
  }

  #run(operation: RanStatement['operation'], args: Json): { rows: Json[]; rowCount: number } {
    const fields = isObject(args) ? args : {};
    const { params } = fields;
    const statement = {
      operation,
      sql: text(fields, 'sql'),
      params: Array.isArray(params) ? params : [],
    };
    this.statements.push(statement);
    const found = this.#answers.find(({ matches }) => matches(statement));
    if (found === undefined) {
      const message = `the test answers no such statement; add host.db.onQuery(/…/, rows) for: ${statement.sql}`;
      throw new NoaError('INVALID_ARGUMENT', message);
    }
    const answer = typeof found.answer === 'function' ? found.answer(statement) : found.answer;
    const { rows, rowCount } =
      'rows' in answer ? answer : { rows: answer, rowCount: answer.length };
    return { rows: copy(rows), rowCount };
  }
}

/** The cache's real rules, in memory and on the test's clock. */
export class FakeCache {
  readonly #entries = new Map<string, { value: Json; until: number }>();
  readonly #now: () => number;
  #locks = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** What is kept under a key now, or undefined. */
  peek(key: string): Json | undefined {
    const entry = this.#entries.get(key);
    return entry !== undefined && entry.until > this.#now() ? entry.value : undefined;
  }

  /** Keeps a JSON-able value, as the plugin itself would. */
  put(key: string, value: unknown, ttlMs: number = Infinity): void {
    this.#entries.set(key, { value: copy(value), until: this.#now() + ttlMs });
  }

  invoke(operation: string, args: Arguments): Json {
    const key = text(args, 'key');
    const ttlMs = typeof args['ttlMs'] === 'number' ? args['ttlMs'] : Infinity;
    switch (operation) {
      case 'get':
        return { value: this.peek(key) ?? null };
      case 'set':
        this.put(key, args['value'], ttlMs);
        return {};
      case 'delete': {
        const deleted = this.peek(key) !== undefined;
        this.#entries.delete(key);
        return { deleted };
      }
      case 'increment':
        return { value: this.#increment(key, Number(args['by'] ?? 1), ttlMs) };
      case 'lock':
        return this.#lock(`lock of ${key}`, args['release'], ttlMs);
      default:
        throw noOperation('cache', operation);
    }
  }

  #increment(key: string, by: number, ttlMs: number): number {
    const before = this.peek(key) ?? 0;
    if (typeof before !== 'number') {
      throw new NoaError('INVALID_ARGUMENT', `the value under ${JSON.stringify(key)} is no number`);
    }
    const entry = this.#entries.get(key);
    if (entry !== undefined && entry.until > this.#now()) entry.value = before + by;
    else this.put(key, by, ttlMs);
    return before + by;
  }

  #lock(name: string, release: Json | undefined, ttlMs: number): Json {
    const holder = this.peek(name);
    if (release !== undefined) {
      if (holder !== release) return { released: false };
      this.#entries.delete(name);
      return { released: true };
    }
    if (holder !== undefined) return { acquired: false };
    this.#locks += 1;
    const token = `lock-${this.#locks}`;
    this.put(name, token, ttlMs);
    return { acquired: true, token };
  }
}

export class FakePlugins {
  readonly #exports = new Map<string, (input: Json) => unknown>();

  /** Answers calls of another plugin's export; the function may throw NoaError, as that plugin would. */
  onCall(plugin: string, exportName: string, answer: (input: Json) => unknown): this {
    this.#exports.set(`${plugin}/${exportName}`, answer);
    return this;
  }

  async invoke(operation: string, args: Arguments): Promise<Json> {
    if (operation !== 'call') throw noOperation('plugin', operation);
    const name = `${text(args, 'plugin')}/${text(args, 'export')}`;
    const answer = this.#exports.get(name);
    if (answer === undefined) {
      const message = `there is no ${name} in this test; add host.plugin.onCall(…)`;
      throw new NoaError('NOT_FOUND', message);
    }
    return { output: copy(await answer(args['input'] ?? null)) };
  }
}

/** What the other side of a wire would have of a value. */
export function copy<Copy extends Json>(value: unknown): Copy {
  return JSON.parse(JSON.stringify(value) ?? 'null') as Copy;
}

/** A text argument; refused as the host's schemas refuse it when it is none. */
export function text(args: Arguments, name: string): string {
  const value = args[name];
  if (typeof value === 'string') return value;
  throw new NoaError('INVALID_ARGUMENT', `the arguments break the schema: /${name} must be string`);
}

export function isObject(value: Json | undefined): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What the host says of an operation that its table does not have. */
export function noOperation(capability: string, operation: string): NoaError {
  return new NoaError(
    'INVALID_ARGUMENT',
    `${capability} has no operation ${JSON.stringify(operation)}`,
  );
}
