/**
 * The host's log: one JSON object a line, or a line for a person. Invariant: what names a credential is
 * never written, and no text breaks out of its line.
 */
import type { Writable } from 'node:stream';
import { destination, type DestinationStream, type Logger, pino } from 'pino';
import { prettyFactory } from 'pino-pretty';
import { type LogLine, type LogPage, PluginLogs, printable } from './plugin-logs.ts';

/** Where a process serves beside others, they are kept elsewhere. */
export interface PluginLines {
  read(plugin: string, query: { since: number; limit: number }): LogPage | Promise<LogPage>;
  dropped(plugin: string): number;
  forget(plugin: string): void;
}

export interface LogsOptions {
  readonly level: string;
  readonly format: 'json' | 'pretty';
  /** Lines kept in memory for each plugin. */
  readonly pluginLines: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Standard output when absent. */
  readonly stream?: Writable;
  /**
   * Of several processes on one output; named in each line. They write pieces that a pipe takes whole
   * (PIPE_BUF, pipe(7)), so that lines of two do not mix unless one is longer than that.
   */
  readonly worker?: number;
  /** Told of each line of a plugin that is kept. */
  readonly onPluginLine?: (plugin: string, line: LogLine) => void;
}

export interface AccessEntry {
  readonly method: string;
  readonly route: string;
  readonly status: number;
  readonly seconds: number;
  readonly plugin: string | undefined;
  readonly requestId: string;
  readonly traceId: string;
  /** Of a request that is traced. */
  readonly spanId: string | undefined;
  /** Without its query. */
  readonly path: string;
  readonly subject: string | undefined;
  readonly remoteAddress: string | undefined;
}

export interface Logs {
  /** The logger of one part of the host; `target` is in each of its lines. */
  readonly logger: (target: string) => Logger;
  /** One line for an answered request. */
  readonly access: (entry: AccessEntry) => void;
  /** A line of a plugin: kept for its readers and written to the log. */
  readonly plugin: (plugin: string, level: LogLine['level'], message: string) => void;
  readonly plugins: PluginLogs;
  readonly setLevel: (level: string) => void;
  /** Writes what is buffered; call it before the process ends. */
  readonly close: () => void;
}

/** Access lines may wait in memory until they are this long, for FLUSH_MS, or for any other line. */
const BUFFER_CHARS = 65_536;
const SHARED_BUFFER_CHARS = 4096;
const FLUSH_MS = 250;

/** Names of fields that hold credentials, at the top of a line and one level below. */
const SECRET_FIELDS = [
  'authorization',
  'cookie',
  'token',
  'password',
  'secret',
  'apiKey',
  'api_key',
];

export function createLogs(options: LogsOptions): Logs {
  const output = createOutput(options);
  const timestamp = createTimestamp();
  const root = pino(
    {
      level: options.level,
      base: options.worker === undefined ? null : { worker: options.worker },
      messageKey: 'message',
      errorKey: 'error',
      timestamp: () => `,"timestamp":"${timestamp(options.now())}"`,
      formatters: { level: (label) => ({ level: label }) },
      hooks: { streamWrite: inert },
      serializers: { error: describeError },
      redact: {
        paths: [
          ...SECRET_FIELDS,
          ...SECRET_FIELDS.map((name) => `*.${name}`),
          'headers["set-cookie"]',
        ],
        censor: '[redacted]',
      },
    },
    output.stream,
  );
  const targets = new Map<string, Logger>();
  const logger = (target: string): Logger => {
    const known = targets.get(target) ?? root.child({ target });
    targets.set(target, known);
    return known;
  };
  const http = logger('http');
  const guests = logger('plugin');
  const plugins = new PluginLogs({ lines: options.pluginLines, now: options.now });
  const timer = setInterval(output.flush, FLUSH_MS);
  timer.unref();

  return {
    logger,
    plugins,
    access: (entry) => {
      if (!http.isLevelEnabled('info')) return;
      output.access(accessLine(entry, timestamp(options.now()), options.worker));
    },
    plugin: (plugin, level, message) => {
      for (const line of plugins.append(plugin, level, message)) {
        guests[guestLevel(line.level)]({ plugin }, line.message);
        options.onPluginLine?.(plugin, line);
      }
    },
    setLevel: (level) => {
      root.level = level;
      for (const each of targets.values()) each.level = level;
    },
    close: () => {
      clearInterval(timer);
      output.close();
    },
  };
}

/**
 * The line as pino would write it, at a tenth of its cost: there is one for each request, its fields are
 * known, and none of them needs redaction.
 */
function accessLine(entry: AccessEntry, timestamp: string, worker: number | undefined): string {
  const { spanId, plugin, subject, remoteAddress } = entry;
  return (
    `{"level":"info","timestamp":"${timestamp}",${worker === undefined ? '' : `"worker":${worker},`}` +
    `"target":"http","request_id":${quote(entry.requestId)},"trace_id":"${entry.traceId}"` +
    `${spanId === undefined ? '' : `,"span_id":"${spanId}"`}` +
    `,"duration_ms":${Math.round(entry.seconds * 1e6) / 1e3},"method":${quote(entry.method)}` +
    `,"path":${quote(entry.path)},"route":${quote(entry.route)},"status":${entry.status}` +
    `${plugin === undefined ? '' : `,"plugin":${quote(plugin)}`}` +
    `${subject === undefined ? '' : `,"subject":${quote(subject)}`}` +
    `${remoteAddress === undefined ? '' : `,"remote_address":${quote(remoteAddress)}`}` +
    ',"message":"request"}\n'
  );
}

/** What JSON writes as it is. */
const PLAIN = /^[ !#-[\]-~]*$/;

function quote(text: string): string {
  return PLAIN.test(text) ? `"${text}"` : inert(JSON.stringify(text));
}

/** JSON leaves some characters as they are that steer a terminal or read as the end of a line. */
function inert(text: string): string {
  return text.replaceAll(/[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}

/**
 * What a person needs of an error, without control characters, for it may quote a guest, and without the
 * objects that libraries hang on theirs (a connection, with its password).
 */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { name, message, stack = '', cause } = error;
  return {
    type: name,
    message: printable(message),
    ...('code' in error ? { code: error.code } : {}),
    stack: stack.split('\n').map(printable).join('\n'),
    ...(cause === undefined ? {} : { cause: describeError(cause) }),
  };
}

function guestLevel(level: string): 'debug' | 'info' | 'warn' | 'error' {
  return level === 'debug' || level === 'warn' || level === 'error' ? level : 'info';
}

/** ISO 8601; what falls into one millisecond shares the text, which costs as much as the rest of a line. */
function createTimestamp(): (now: number) => string {
  let last = Number.NaN;
  let text = '';
  return (now) => {
    if (now !== last) [last, text] = [now, new Date(now).toISOString()];
    return text;
  };
}

interface Output {
  /** Takes one line each time. */
  readonly stream: DestinationStream;
  readonly access: (line: string) => void;
  readonly flush: () => void;
  readonly close: () => void;
}

function createOutput({ format, stream, worker }: LogsOptions): Output {
  const none = () => undefined;
  if (format === 'pretty') {
    const out = stream ?? process.stdout;
    const describe = prettyFactory({
      colorize: stream === undefined && process.stdout.isTTY,
      messageKey: 'message',
      timestampKey: 'timestamp',
      errorLikeObjectKeys: ['error'],
      translateTime: 'SYS:HH:MM:ss.l',
      ignore: 'target',
      singleLine: true,
      messageFormat: (log, key) =>
        `${printable(String(log['target']))}: ${printable(String(log[key]))}`,
    });
    const write = (line: string) => void out.write(inert(describe(line)));
    return { stream: { write }, access: write, flush: none, close: none };
  }
  if (stream !== undefined) {
    return { stream, access: (line) => void stream.write(line), flush: none, close: none };
  }
  return standardOutput(worker === undefined ? BUFFER_CHARS : SHARED_BUFFER_CHARS);
}

/**
 * Access lines go out many at a time: a write of its own costs more than the making of a line. Writes are
 * synchronous, as Node's own to a pipe are: one that is under way in another thread when the process ends
 * would lose its lines, or have later ones overtake it.
 */
function standardOutput(bufferChars: number): Output {
  const out = destination({ fd: 1, sync: true });
  let waiting = '';
  const flush = (): void => {
    if (waiting === '') return;
    out.write(waiting);
    waiting = '';
  };
  const close = (): void => {
    flush();
    out.flushSync();
    process.off('exit', close);
  };
  process.on('exit', close);
  return {
    stream: {
      write: (line) => {
        flush(); // lines stay in order
        out.write(line);
      },
    },
    access: (line) => {
      if (waiting.length + line.length > bufferChars) flush();
      waiting += line;
    },
    flush,
    close,
  };
}
