/**
 * Runs statements on a `pg` connection over the protocol itself (PostgreSQL manual, "Message Flow"):
 * several in one write, each answer bounded while it arrives. Invariant: for every Sync or simple query
 * that is sent there is one step in the client's queue, so answers can never shift to another step.
 */
import { type Json, NoaError } from '@noa/sdk/host';
import type pg from 'pg';
import { MAX_ROWS } from './capability.ts';
import { FLUSH, DESCRIBE_STATEMENT, SYNC, bind, execute, parse, simpleQuery } from './frontend.ts';
import { isAmbiguous, parserOf, refuseNul, toParameter } from './values.ts';

export interface Statement {
  readonly sql: string;
  readonly params: readonly Json[];
}

export interface Result {
  readonly rows: { [column: string]: Json }[];
  readonly rowCount: number;
}

/** What a step needs of the exchange it takes part in. */
interface Turn {
  /** Sends what ends this step, and all that may follow without waiting. */
  send(head?: Buffer): void;
  /** Hands the connection to the next step. */
  next(): void;
  /** Fails everything and closes the connection. */
  abort(error: Error): void;
}

/** Queues `steps` and sends, in one write, the bytes up to the first step that must see an answer. */
export function exchange(
  client: pg.Client,
  steps: readonly Step[],
  abort: (error: Error) => void,
): void {
  let sent = 0;
  const send = (head?: Buffer) => {
    const buffers = head ? [head] : [];
    for (let step = steps[sent]; step; step = steps[sent]) {
      sent += 1;
      buffers.push(step.bytes);
      if (step.holds) break;
    }
    client.connection.stream.write(Buffer.concat(buffers));
  };
  for (const [index, step] of steps.entries()) {
    const next = () => {
      step.status = client.getTransactionStatus();
      const following = steps[index + 1];
      if (following) client.query(following);
    };
    step.turn = { send, next, abort };
  }
  const [first] = steps;
  if (!first) return;
  first.submit = () => send();
  client.query(first);
}

/** One Sync or simple query and its answer. `pg.Client` calls the `handle…` methods. */
export class Step implements pg.Submittable {
  readonly result: Promise<Result>;
  /** What is sent for this step before any of its answer is seen. */
  readonly bytes: Buffer;
  /** True when the step sends more once it has seen an answer; what follows must wait. */
  readonly holds: boolean;
  /** Transaction status after the step: idle, in a transaction, in a failed one. */
  status: ReturnType<pg.Client['getTransactionStatus']> = null;
  /** The server's name of the last command that was done: `INSERT`, `COMMIT` … */
  command = '';
  turn: Turn | undefined;
  protected readonly rows: Result['rows'] = [];
  protected rowCount = 0;
  #settle: PromiseWithResolvers<Result> = Promise.withResolvers();

  constructor(bytes: Buffer, holds = false) {
    this.bytes = bytes;
    this.holds = holds;
    this.result = this.#settle.promise;
    // Whoever awaits `result` sees the failure; a step nobody awaits must not end the process.
    this.result.catch(() => {});
  }

  static simple(text: string): Step {
    return new Step(simpleQuery(text));
  }

  /** Assigned by the exchange for the step that starts it; the others' bytes are already sent. */
  submit = (_connection?: pg.Connection): void => {};

  fail(error: Error): void {
    this.#settle.reject(error);
  }

  handleRowDescription(_message: { fields: readonly pg.FieldDef[] }): void {}

  handleDataRow(_message: { fields: readonly (string | null)[] }): void {}

  handleCommandComplete(message: { text: string }): void {
    const [, command = '', count] = /^(.*?)(?: \d+)??(?: (\d+))?$/.exec(message.text) ?? [];
    this.command = command;
    this.rowCount = Number(count ?? this.rows.length);
  }

  handleEmptyQuery(): void {
    this.fail(new NoaError('INVALID_ARGUMENT', 'db: sql holds no statement'));
  }

  handlePortalSuspended(): void {
    this.fail(tooMuch(`${MAX_ROWS} rows`));
  }

  handleCopyInResponse(): void {
    this.turn?.abort(noCopy());
  }

  handleCopyData(): void {
    this.turn?.abort(noCopy());
  }

  handleReadyForQuery(): void {
    this.turn?.next();
    this.#settle.resolve({ rows: this.rows, rowCount: this.rowCount });
  }

  handleError(error: Error): void {
    this.fail(error);
    this.turn?.next();
  }
}

/**
 * One statement in the extended protocol, where the server itself refuses a second one. With `commit`
 * false the Sync, which commits a statement outside a transaction, is sent only after the whole answer
 * has arrived within its bounds; else the transaction is rolled back.
 */
export class StatementStep extends Step {
  readonly #statement: Statement;
  readonly #holdsCommit: boolean;
  readonly #count: (bytes: number) => void;
  #columns: { name: string; parse: (text: string) => Json }[] = [];
  /** What the names take in each row; PostgreSQL sends them once. */
  #rowBytes = 0;
  #ended: boolean;
  #described: ((message: { dataTypeIDs: readonly number[] }) => void) | undefined;
  #connection: pg.Connection | undefined;

  /** `count` takes note of bytes of the answer that were not seen on the wire; it may throw. */
  constructor(
    statement: Statement,
    client: pg.Client,
    holdsCommit: boolean,
    count: (bytes: number) => void,
  ) {
    const head = Buffer.concat([parse(refuseNul(statement.sql, 'sql')), DESCRIBE_STATEMENT]);
    const ambiguous = statement.params.some(isAmbiguous);
    const tail = holdsCommit ? FLUSH : SYNC;
    const bytes = ambiguous ? [head, FLUSH] : [head, run(statement.params), tail];
    super(Buffer.concat(bytes), ambiguous || holdsCommit);
    this.#statement = statement;
    this.#holdsCommit = holdsCommit;
    this.#count = count;
    this.#ended = !this.holds;
    if (ambiguous) {
      this.#connection = client.connection;
      this.#described = ({ dataTypeIDs }) => this.#bind(dataTypeIDs);
      client.connection.once('parameterDescription', this.#described);
    }
  }

  #bind(types: readonly number[]): void {
    try {
      const bytes = run(this.#statement.params, types);
      if (this.#holdsCommit) this.#connection?.stream.write(Buffer.concat([bytes, FLUSH]));
      else this.#end(Buffer.concat([bytes, SYNC]));
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
      this.#end(SYNC);
    }
  }

  /** Sends what ends this step, once. */
  #end(bytes: Buffer): void {
    if (this.#ended) return;
    this.#ended = true;
    this.turn?.send(bytes);
  }

  override handleRowDescription({ fields }: { fields: readonly pg.FieldDef[] }): void {
    this.#columns = fields.map(({ name, dataTypeID }) => ({ name, parse: parserOf(dataTypeID) }));
    const texts = fields.map(({ name }) => JSON.stringify(name));
    this.#rowBytes = texts.reduce((sum, text) => sum + text.length, 0);
  }

  override handleDataRow({ fields }: { fields: readonly (string | null)[] }): void {
    this.#count(this.#rowBytes);
    const row: Result['rows'][number] = {};
    for (const [index, { name, parse: read }] of this.#columns.entries()) {
      const text = fields[index];
      const value = text === null || text === undefined ? null : read(text);
      // Own properties whatever the column is called.
      if (name !== '__proto__') row[name] = value;
      else Object.defineProperty(row, name, { value, enumerable: true, configurable: true });
    }
    this.rows.push(row);
  }

  override handleCommandComplete(message: { text: string }): void {
    super.handleCommandComplete(message);
    this.#end(SYNC);
  }

  override handleEmptyQuery(): void {
    super.handleEmptyQuery();
    this.#end(SYNC);
  }

  override handlePortalSuspended(): void {
    super.handlePortalSuspended();
    // Without a Sync the transaction is still open, and this ends it as if nothing had happened.
    this.#end(simpleQuery('ROLLBACK'));
  }

  override handleError(error: Error): void {
    if (this.#described) {
      this.#connection?.removeListener('parameterDescription', this.#described);
    }
    this.#end(SYNC);
    super.handleError(error);
  }
}

function run(params: readonly Json[], types: readonly number[] = []): Buffer {
  const values = params.map((value, index) => toParameter(value, index, types[index]));
  return Buffer.concat([bind(values), execute(MAX_ROWS + 1)]);
}

export function tooMuch(bound: string): NoaError {
  return new NoaError(
    'PAYLOAD_TOO_LARGE',
    `db: the answer is over ${bound}; read less at a time, with LIMIT or fewer columns`,
  );
}

function noCopy(): NoaError {
  return new NoaError(
    'INVALID_ARGUMENT',
    'db: COPY with STDIN or STDOUT has no stream here; use INSERT with params, or SELECT',
  );
}
