/**
 * One connection that is logged in as one plugin's role. Invariant: between two calls it is as fresh as
 * at login. Every call ends with ROLLBACK and DISCARD ALL, sent along with the call itself, so a
 * plugin's settings, prepared statements, listeners and open transactions never meet another call.
 */
import type { Duplex } from 'node:stream';
import { NoaError } from '@noa/sdk/host';
import pg from 'pg';
import { MAX_BYTES } from './capability.ts';
import { type Result, type Statement, StatementStep, Step, exchange, tooMuch } from './exchange.ts';
import { away } from './failures.ts';
import { refuseNul } from './values.ts';

/** Commands that begin or end a transaction, as the server names them once they are done. */
const CONTROL = new Set([
  'BEGIN',
  'START TRANSACTION',
  'COMMIT',
  'ROLLBACK',
  'PREPARE TRANSACTION',
]);

/** Bytes after which the host's other work gets a turn. */
const PAUSE_BYTES = 32 << 10;

export class Session {
  readonly role: string;
  /** The server process behind this connection. */
  readonly pid: number;
  /** Settles when the connection is fresh again after the last call, or lost. */
  fresh: Promise<unknown> = Promise.resolve();
  readonly #client: pg.Client;
  readonly #onBroken: (session: Session) => void;
  #steps: readonly Step[] = [];
  /** Of the answer that comes in. */
  #size = 0;
  #broken = false;

  private constructor(
    role: string,
    client: pg.Client,
    pid: number,
    onBroken: (session: Session) => void,
  ) {
    this.role = role;
    this.pid = pid;
    this.#client = client;
    this.#onBroken = onBroken;
    client.on('error', () => this.#break());
    client.on('end', () => this.#break());
    client.connection.on('parameterStatus', refuseEncoding);
    this.#guard(client.connection.stream);
  }

  /**
   * Reading an answer happens in listeners of the socket, `pg`'s and those of the steps, where a throw
   * would end the process. Here it ends what runs, and the connection.
   */
  #guard(stream: Duplex): void {
    const readers = stream.listeners('data') as ((chunk: Buffer) => void)[];
    stream.removeAllListeners('data');
    stream.on('data', (chunk: Buffer) => {
      if (this.#broken) return;
      try {
        // Counted on the wire: a single value may be larger than all that is allowed.
        this.#count(chunk.length);
        for (const read of readers) read(chunk);
        // Reads follow each other without a pause for others as long as there is something to read.
        if (chunk.length >= PAUSE_BYTES) {
          stream.pause();
          setImmediate(() => stream.resume());
        }
      } catch (error) {
        this.abort(error instanceof NoaError ? error : away(error));
      }
    });
  }

  readonly #count = (bytes: number): void => {
    this.#size += bytes;
    if (this.#size > MAX_BYTES) throw tooMuch(`${MAX_BYTES >> 20} MiB`);
  };

  /** Logs in. `onBroken` is called once, when the connection is lost or aborted. */
  static async open(
    role: string,
    config: pg.ClientConfig,
    onBroken: (session: Session) => void,
  ): Promise<Session> {
    const client = new pg.Client(config);
    // The server may end a session right behind its login, before there is a Session to notice.
    client.on('error', () => {});
    let pid = 0;
    client.connection.once('backendKeyData', (message: { processID: number }) => {
      pid = message.processID;
    });
    try {
      await client.connect();
    } catch (error) {
      client.connection.stream.destroy();
      throw error;
    }
    return new Session(role, client, pid, onBroken);
  }

  get broken(): boolean {
    return this.#broken;
  }

  /** Reads: the transaction is read-only and is rolled back. */
  async query(statement: Statement): Promise<Result> {
    this.#size = 0;
    // The snapshot is taken at once: from then on nothing can make this transaction writable.
    const begin = Step.simple('BEGIN READ ONLY; SELECT');
    const step = new StatementStep(statement, this.#client, false, this.#count);
    this.#exchange([begin, step, ...this.#cleaning()]);
    await begin.result;
    return step.result;
  }

  /** Runs one statement by itself; committed only when its whole answer is within the bounds. */
  async execute(statement: Statement): Promise<Result> {
    this.#size = 0;
    const step = new StatementStep(statement, this.#client, true, this.#count);
    this.#exchange([step, ...this.#cleaning()]);
    const result = await step.result;
    if (step.status === 'I') return result;
    throw new NoaError(
      'INVALID_ARGUMENT',
      'db: the statement began a transaction, which was rolled back; use db.transaction',
    );
  }

  /** Runs statements in one transaction. */
  async transaction(statements: readonly Statement[]): Promise<Result[]> {
    this.#size = 0;
    return this.#inTransaction(async () => {
      const results: Result[] = [];
      for (const [index, statement] of statements.entries()) {
        const step = new StatementStep(statement, this.#client, false, this.#count);
        this.#exchange([step]);
        results.push(await step.result);
        if (CONTROL.has(step.command)) throw ownControl(`statements[${index}]`);
      }
      return results;
    });
  }

  /**
   * Runs a script of several statements in one transaction. `announce` gets the transaction's id before
   * the script starts: with it `pg_xact_status` tells later, after any crash, whether it was committed.
   */
  async script(sql: string, announce: (xid: string) => Promise<void>): Promise<void> {
    this.#size = 0;
    await this.#inTransaction(async () => {
      const sent = 'SELECT pg_current_xact_id()::text AS xid';
      const xid = new StatementStep({ sql: sent, params: [] }, this.#client, false, this.#count);
      this.#exchange([xid]);
      const [row] = (await xid.result).rows;
      await announce(typeof row?.['xid'] === 'string' ? row['xid'] : '');
      // Inside a block the server refuses every statement that would end the transaction early.
      const block = `BEGIN EXECUTE ${pg.escapeLiteral(refuseNul(sql, 'the migration'))}; END`;
      const script = Step.simple(`DO ${pg.escapeLiteral(block)}`);
      this.#exchange([script]);
      await script.result.catch((error: Error) => {
        throw /of transaction commands/.test(error.message) ? ownControl('the migration') : error;
      });
    });
  }

  async #inTransaction<T>(work: () => Promise<T>): Promise<T> {
    try {
      const begin = Step.simple('BEGIN');
      this.#exchange([begin]);
      await begin.result;
      const value = await work();
      const commit = Step.simple('COMMIT');
      this.#exchange([commit, ...this.#cleaning()]);
      await commit.result;
      return value;
    } catch (error) {
      if (!this.#broken) this.#exchange(this.#cleaning());
      throw error;
    }
  }

  #cleaning(): Step[] {
    const steps = [Step.simple('ROLLBACK'), Step.simple('DISCARD ALL')];
    this.fresh = Promise.all(steps.map((step) => step.result));
    this.fresh.catch((error: Error) => this.abort(error));
    return steps;
  }

  #exchange(steps: readonly Step[]): void {
    this.#steps = steps;
    exchange(this.#client, steps, (error) => this.abort(error));
  }

  /** Fails what runs now with `error` and drops the connection. */
  abort(error: Error): void {
    for (const step of this.#steps) step.fail(error);
    this.#client.connection.stream.destroy();
    this.#break();
  }

  #break(): void {
    if (this.#broken) return;
    this.#broken = true;
    this.#onBroken(this);
  }

  async close(): Promise<void> {
    this.#broken = true;
    await this.#client.end();
  }
}

/**
 * Everything is read as UTF-8. The other settings that the server reports only change the text of the
 * plugin's own values. The report comes after the answer: `execute` has been committed by then.
 */
function refuseEncoding(status: { parameterName: string; parameterValue: string }): void {
  const { parameterName: name, parameterValue: value } = status;
  if (name !== 'client_encoding' || value === 'UTF8') return;
  throw new NoaError(
    'INVALID_ARGUMENT',
    `db: client_encoding must stay UTF8, the statement made it ${value}; its answer cannot be read, ` +
      'what db.execute wrote is kept',
  );
}

function ownControl(field: string): NoaError {
  return new NoaError(
    'INVALID_ARGUMENT',
    `db: ${field} begins or ends a transaction; the host does that, leave it out`,
  );
}
