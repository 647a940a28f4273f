/** How a database URL becomes a connection: as its own user, or as one of a plugin's roles. */
import { NoaError } from '@noa/sdk/host';
import type pg from 'pg';

/** A server that does not answer within this time is away. */
export const CONNECT_TIMEOUT_MS = 2_000;

/**
 * Settings of a plugin's session. They travel in the start-up packet, where they outrank what the role
 * may have stored for itself with ALTER ROLE, and are what DISCARD ALL returns to.
 */
const SESSION_SETTINGS = {
  client_min_messages: 'error',
  statement_timeout: '10min',
  idle_in_transaction_session_timeout: '1min',
  default_transaction_isolation: 'read\\ committed',
  local_preload_libraries: '',
  DateStyle: 'ISO',
  IntervalStyle: 'iso_8601',
  TimeZone: 'UTC',
  bytea_output: 'hex',
  extra_float_digits: '1',
  xmloption: 'content',
};

/**
 * The configuration with which `pg` (Client, Pool) and node-pg-migrate connect to `url`, a libpq URI:
 * `postgresql://user:password@host:port/database?sslmode=verify-full`, or with `host=/folder` as a
 * parameter for a Unix socket. Throws INVALID_ARGUMENT without repeating the URL, which holds a secret.
 */
export function connectionConfig(url: string): pg.ClientConfig {
  return config(parse(url));
}

/** What is particular to a role's sessions. */
export interface Login {
  readonly schema: string;
  readonly readOnly: boolean;
  /** Lets the server look, while it works, whether the client is still there. */
  readonly checksClients: boolean;
}

/** The same server and database as another role. */
export function roleConfig(
  url: string,
  role: string,
  password: string,
  login: Login,
): pg.ClientConfig {
  const parsed = parse(url);
  const settings = {
    ...SESSION_SETTINGS,
    search_path: login.schema,
    default_transaction_read_only: login.readOnly ? 'on' : 'off',
    ...(login.checksClients ? { client_connection_check_interval: '2s' } : {}),
  };
  const options = Object.entries(settings).map(([name, value]) => `-c ${name}=${value}`);
  const given = parsed.searchParams.get('options');
  parsed.username = '';
  parsed.password = '';
  parsed.searchParams.set('user', role);
  parsed.searchParams.set('password', password);
  parsed.searchParams.set('options', [...(given ? [given] : []), ...options].join(' '));
  return config(parsed);
}

function config(url: URL): pg.ClientConfig {
  return {
    connectionString: url.href,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    application_name: 'noa',
    keepAlive: true,
  };
}

function parse(url: string): URL {
  // libpq allows user@/database, which the URL standard does not.
  const parsed = URL.parse(url) ?? URL.parse(url.replace('@/', '@localhost/'));
  if (parsed && /^postgres(ql)?:$/.test(parsed.protocol) && parsed.pathname.length > 1) {
    return parsed;
  }
  throw new NoaError(
    'INVALID_ARGUMENT',
    'database.url must be written postgresql://user:password@host:5432/database',
  );
}
