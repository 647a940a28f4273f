/**
 * The embedded cache: a small server of the Redis protocol in this process, reached by ioredis through a
 * socket that never leaves it, so that host and driver run the same code as with Redis. The other processes
 * of a host reach it through a socket in the file system.
 */
import { once } from 'node:events';
import { createServer, type Server, Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { AbstractConnector, type RedisOptions } from 'ioredis';
import { Journal } from './journal.ts';
import { Keyspace } from './keyspace.ts';
import { CommandReader, OK, type Reply, ReplyError, Status, encodeReply } from './resp.ts';

export interface EmbeddedCacheOptions {
  /** Folder for the cache alone; made when absent. */
  readonly dataDir: string;
  readonly warn: (message: string) => void;
  /** Memory for keys and values, about; the least recently used go first. */
  readonly maxBytes?: number;
  readonly maxEntries?: number;
}

export interface EmbeddedCache {
  /** For ioredis's option of this name; any number of connections. */
  readonly Connector: NonNullable<RedisOptions['Connector']>;
  /** Serves the host's other processes too, at a socket in the file system; `path` may not exist yet. */
  listen(path: string): Promise<void>;
  /** Ends all connections and writes everything to disk. */
  close(): Promise<void>;
}

const MAX_BYTES = 64 << 20;
const MAX_ENTRIES = 100_000;
/** Commands of one MULTI. */
const MAX_QUEUED = 128;

export async function openEmbeddedCache(options: EmbeddedCacheOptions): Promise<EmbeddedCache> {
  const { maxBytes = MAX_BYTES, maxEntries = MAX_ENTRIES } = options;
  const keyspace = new Keyspace({ maxBytes, maxEntries }, Date.now);
  const journal = await Journal.open(options.dataDir, keyspace, options.warn);
  const connections = new Set<Connection>();
  let closed = false;
  const connect = (): Connection => {
    const connection = new Connection(keyspace, journal);
    connections.add(connection);
    connection.once('close', () => connections.delete(connection));
    return connection;
  };
  let server: Server | undefined;
  const Connector = class extends AbstractConnector {
    constructor() {
      super(0);
    }

    override async connect(): Promise<Socket> {
      if (closed) throw new Error('the embedded cache is closed');
      const connection = connect();
      this.stream = connection;
      return connection;
    }
  };
  return {
    Connector,
    async listen(path) {
      server = createServer((socket) => {
        const connection = connect();
        // Of a process that was killed nothing is left to tell.
        pipeline(socket, connection, socket).catch(() => connection.destroy());
      });
      await once(server.listen(path), 'listening');
    },
    async close() {
      closed = true;
      server?.close();
      for (const connection of connections) connection.destroy();
      await journal.close();
    },
  };
}

/** The client's end of a connection; what is written to it is run at once and the replies are read. */
class Connection extends Socket {
  readonly #keyspace: Keyspace;
  readonly #journal: Journal;
  readonly #reader = new CommandReader();
  #queued: string[][] | undefined;

  constructor(keyspace: Keyspace, journal: Journal) {
    super();
    this.#keyspace = keyspace;
    this.#journal = journal;
  }

  override _read(): void {}

  override _write(
    chunk: Buffer | string,
    _encoding: BufferEncoding,
    done: (error?: Error | null) => void,
  ): void {
    try {
      let replies = '';
      const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
      for (const command of this.#reader.read(bytes)) replies += encodeReply(this.#run(command));
      this.#journal.append(this.#keyspace.takeEffects());
      // Later, as from a network: the client notes what it asked only after its write returns.
      if (replies !== '') process.nextTick(() => this.push(Buffer.from(replies)));
      done();
    } catch (error) {
      done(error instanceof Error ? error : new Error(String(error)));
    }
  }

  override _writev(
    chunks: { chunk: Buffer | string; encoding: BufferEncoding }[],
    done: (error?: Error | null) => void,
  ): void {
    const bytes = chunks.map(({ chunk }) =>
      typeof chunk === 'string' ? Buffer.from(chunk) : chunk,
    );
    this._write(Buffer.concat(bytes), 'utf8', done);
  }

  override _final(done: (error?: Error | null) => void): void {
    process.nextTick(() => this.push(null));
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    done(error);
  }

  #run(command: string[]): Reply {
    switch (command[0]?.toUpperCase()) {
      case 'MULTI':
        if (this.#queued) return new ReplyError('ERR MULTI calls can not be nested');
        this.#queued = [];
        return OK;
      case 'EXEC': {
        const queued = this.#queued;
        this.#queued = undefined;
        if (!queued) return new ReplyError('ERR EXEC without MULTI');
        return queued.map((each) => this.#keyspace.run(each));
      }
      default:
        if (!this.#queued) return this.#keyspace.run(command);
        if (this.#queued.length >= MAX_QUEUED)
          return new ReplyError('ERR too many commands in MULTI');
        this.#queued.push(command);
        return new Status('QUEUED');
    }
  }
}
