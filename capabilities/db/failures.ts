/**
 * What PostgreSQL's errors mean to a plugin. The text of statement errors is PostgreSQL's own; that of
 * connection errors is not shown, because it names users, hosts and paths.
 */
import { type ErrorCode, NoaError } from '@noa/sdk/host';
import pg from 'pg';

const CODES: { readonly [sqlstate: string]: ErrorCode } = {
  '23505': 'CONFLICT',
  '23503': 'CONFLICT',
  '23P01': 'CONFLICT',
  '25006': 'CAPABILITY_DENIED',
  '40001': 'UNAVAILABLE',
  '40P01': 'UNAVAILABLE',
  '42501': 'CAPABILITY_DENIED',
  '53300': 'UNAVAILABLE',
  '55P03': 'UNAVAILABLE',
  '57014': 'DEADLINE_EXCEEDED',
};
/** Classes (the first two characters) that are not the statement's own fault. */
const CLASSES: { readonly [sqlclass: string]: ErrorCode } = {
  '08': 'UNAVAILABLE',
  '28': 'UNAVAILABLE',
  '53': 'RESOURCE_EXHAUSTED',
  '57': 'UNAVAILABLE',
  '58': 'INTERNAL',
  F0: 'INTERNAL',
  XX: 'INTERNAL',
};
const SHOWN = new Set<ErrorCode>(['CONFLICT', 'INVALID_ARGUMENT', 'CAPABILITY_DENIED']);

/** The error that a plugin sees for a failure of its statement or of the connection under it. */
export function fromDatabase(error: unknown): NoaError {
  if (error instanceof NoaError) return error;
  if (!(error instanceof pg.DatabaseError) || error.code === undefined) return away(error);
  const { code: sqlstate } = error;
  const code = CODES[sqlstate] ?? CLASSES[sqlstate.slice(0, 2)] ?? 'INVALID_ARGUMENT';
  const shown = SHOWN.has(code) || sqlstate.startsWith('40');
  return new NoaError(code, shown ? `db: ${message(error)}` : unshown(code), {
    details: shown ? particulars(error) : { sqlstate },
    cause: error,
  });
}

/** The engine does not answer. */
export function away(cause?: unknown): NoaError {
  return new NoaError('UNAVAILABLE', unshown('UNAVAILABLE'), { cause });
}

function message(error: pg.DatabaseError): string {
  if (error.code === '25006') return `${error.message}; db.query only reads: use db.execute`;
  if (error.code !== '42501') return error.message;
  return `${error.message}; the plugin holds no grant for it, see its manifest and "noa grant"`;
}

function unshown(code: ErrorCode): string {
  switch (code) {
    case 'UNAVAILABLE':
      return 'db: the database does not answer now; try again';
    case 'DEADLINE_EXCEEDED':
      return 'db: the statement ran longer than the call may take and was stopped';
    case 'RESOURCE_EXHAUSTED':
      return 'db: the statement needs more memory, disk or locks than the database has for it';
    default:
      return 'db: the database failed at this statement; its log says why';
  }
}

function particulars(error: pg.DatabaseError): { [name: string]: string | number } {
  const position = error.position ?? error.internalPosition;
  const all = {
    sqlstate: error.code,
    position: position === undefined ? undefined : Number(position),
    detail: error.detail,
    hint: error.hint,
    schema: error.schema,
    table: error.table,
    column: error.column,
    constraint: error.constraint,
  };
  return Object.fromEntries(
    Object.entries(all).filter((entry): entry is [string, string | number] => Boolean(entry[1])),
  );
}
