/**
 * Every configuration key, once. Parsing, validation, the reference in config/README.md and
 * config/default.toml are all made from this table. The name of a duration or a size ends in its unit.
 */
import { issuers } from './issuers.ts';
import { policies } from './policies.ts';
import { observability } from './observability.ts';
import { routes } from './routes.ts';
import { upstreams } from './upstreams.ts';
import {
  boolean,
  choice,
  choices,
  digests,
  hostname,
  hosts,
  integer,
  modelIds,
  type Key,
  origins,
  path,
  plugins,
  secretText,
  url,
} from './kinds.ts';

const MiB = 1 << 20;
const requestsAMinute = (fallback: number, level: string) =>
  integer(1, 10_000_000, fallback, {
    reloadable: true,
    description: `Requests that one identity of level ${level} may make in a minute, at all hosts together.`,
  });

export const KEYS = {
  server: {
    host: hostname('127.0.0.1', {
      flag: 'host',
      description: 'Address to listen on. Set 0.0.0.0 or :: to be reached from other machines.',
    }),
    port: integer(0, 65_535, 8080, {
      flag: 'port',
      description: 'Port of the public listener; 0 takes a free one and prints it.',
    }),
    workers: integer(1, 256, 1, {
      flag: 'workers',
      description:
        'Processes that serve on the one port, one per core at most: limits of calls and rates are divided among them. With more than one, SIGHUP replaces them one by one with the new configuration.',
    }),
    max_body_bytes: integer(1024, 256 * MiB, 8 * MiB, {
      description: 'Longest request body; a bundle has its own bound, `plugins.max_bundle_bytes`.',
    }),
    grpc_reflection: choice(['open', 'authenticated', 'off'], 'open', {
      description:
        'Who may ask by gRPC reflection which services there are, which is what `proto/` tells: anyone, whoever has a credential, or nobody.',
    }),
    drain_ms: integer(0, 600_000, 10_000, {
      description: 'Longest wait for running requests after SIGTERM before they are cut off.',
    }),
    openapi: choice(['open', 'authenticated'], 'open', {
      description:
        'Who may read `/openapi.json`, which names the routes of installed plugins: anyone, or callers with a credential.',
    }),
    allowed_origins: origins({
      description:
        'Origins of web pages that may open WebSockets here, beside the pages of this host.',
    }),
    tls: {
      cert_path: path(undefined, {
        description:
          'PEM certificate chain of the listener, which speaks TLS 1.3 then. The file is read again every two seconds and on SIGHUP, and a new certificate is taken without a connection lost.',
      }),
      key_path: path(undefined, { description: 'PEM private key of `server.tls.cert_path`.' }),
      client_ca_path: path(undefined, {
        description:
          'PEM authorities; then every connection has to show a client certificate of theirs.',
      }),
      development: boolean(false, {
        description:
          'TLS with a certificate for localhost, 127.0.0.1 and ::1 that the host makes itself and keeps in the data folder, for trying it on one machine. Not together with `server.tls.cert_path`.',
      }),
    },
  },
  streams: {
    max_connections: integer(1, 1_000_000, 8000, {
      description:
        'WebSockets, event streams and streamed answers that one process has open at one time; one more is refused.',
    }),
    max_per_identity: integer(1, 1_000_000, 1000, {
      description: 'The same for one identity.',
    }),
    heartbeat_ms: integer(1000, 300_000, 15_000, {
      description:
        'Between two signs of life on an open stream. Within this time one is ended whose credential holds no more, or whose other end is dead.',
    }),
  },
  data: {
    path: path('.noa', {
      description:
        'Data folder: bundles, secrets made at first start, and all that the embedded engines keep. Deleting it is a factory reset.',
    }),
  },
  database: {
    url: url(['postgres', 'postgresql'], {
      secret: true,
      description: 'PostgreSQL 14 or later; without it an embedded PostgreSQL is started.',
    }),
    max_connections: integer(1, 1000, 20, {
      description: 'Connections that this host opens to PostgreSQL at most.',
    }),
  },
  cache: {
    url: url(['redis', 'rediss'], {
      secret: true,
      description:
        'Redis; without it an embedded cache is used. Set `maxmemory` there, and `maxmemory-policy noeviction`, since any other may evict a lock that is held. Plugins share its memory: only the embedded cache keeps a share for each.',
    }),
  },
  qdrant: {
    url: url(['http', 'https'], {
      description:
        'Qdrant 1.10 or later, for vectors; without it they are kept in the data folder. The port is 6333 unless the URL names one, and a path is kept. Hosts that share a database share it too.',
    }),
    api_key: secretText('text that is not empty', (text) => text !== '', {
      description: 'Key of `qdrant.url`. It goes over the wire as it is: use https.',
    }),
  },
  inference: {
    device: choice(['auto', 'cpu', 'cuda'], 'auto', {
      description: 'Where models of this host run; auto tries the accelerator first.',
    }),
    model_path: path(undefined, {
      description:
        'Folder whose sub-folders are models, each with a `model.json`, beside those that come with the host.',
    }),
    workers: integer(0, 256, 0, {
      description:
        'Processes that run models, each with its own copy of those that it uses; 0 means one for each processor core. They start when a model is first asked for.',
    }),
    max_batch_size: integer(1, 1024, 32, {
      description: 'Texts that one run of a model takes at most.',
    }),
    max_queued: integer(1, 1_000_000, 4096, {
      description:
        'Texts that may wait for a model; more are refused with RESOURCE_EXHAUSTED (429) and Retry-After.',
    }),
    timeout_ms: integer(1, 600_000, 5000, {
      description:
        'Longest time of a request, its wait included; generations go on for as long as the call that asked.',
    }),
    memory_mib: integer(16, 1 << 20, 1024, {
      description:
        'What loaded models take together, in all of these processes, beside the runtime itself; for another one, those go that were unused longest.',
    }),
    untrusted: modelIds({
      description:
        'Models that run in a process apart from the others, by id or as a beginning and `*`: those whose files you do not trust.',
    }),
    upstreams,
  },
  plugins: {
    max_bundle_bytes: integer(1024, 256 * MiB, 32 * MiB, {
      description: 'Largest plugin bundle (.tgz) that is taken.',
    }),
    blob_max_bytes: integer(0, 2 ** 50, 256 * MiB, {
      description: 'Bytes that the blobs of one plugin have together at most, on each host.',
    }),
    blob_max_count: integer(0, 1_000_000, 10_000, {
      description: 'Blobs that one plugin has at most, on each host.',
    }),
    vector_max_points: integer(0, 100_000_000, 500_000, {
      description:
        'Points that all vector collections of one plugin have together at most, in the embedded store. Their payloads are held in memory.',
    }),
    db_max_bytes: integer(MiB, 2 ** 50, 1024 * MiB, {
      description:
        'Bytes that the tables and definitions of one plugin take together at most, with their indexes. Over it the plugin reads and deletes but writes no more; it is measured each second while a plugin writes.',
    }),
    http_private_hosts: hosts({
      description:
        'Hosts, as URLs name them, that plugins with a grant may reach at loopback and private addresses; all others are reached at public addresses alone.',
    }),
    http_ca_path: path(undefined, {
      description:
        'PEM certificate authorities that `http` trusts beside the public ones, for servers inside your network.',
    }),
    threads: integer(0, 256, 0, {
      description:
        'Threads that run plugin code; 0 means one less than the processor cores, at least one.',
    }),
    builtin: choices(['inference', 'retrieval'], ['inference', 'retrieval'], {
      description:
        "Plugins that are parts of the host: they are installed at the start and kept at the host's version. One that is not named here stays as it is; `noa plugin remove` removes it.",
    }),
    approve_builtin: boolean(true, {
      description:
        'Whether what the plugins of `plugins.builtin` ask for is approved when the host installs them. Rights that were revoked stay so. With false they wait, as those of any plugin, for `noa grant approve`.',
    }),
    untrusted: plugins({
      description:
        'Plugins that run in a process of their own, without a network, files or rights of the operating system; * means all.',
    }),
    max_processes: integer(1, 1024, 64, {
      description:
        'Processes of untrusted plugins at one time, and as many of native ones; one more plugin is not started.',
    }),
    allow_native: boolean(false, {
      description:
        'Whether plugins of kind `native` may run, which is code without a sandbox, with all rights of the user that the host runs as; each must be listed in `plugins.native` too.',
    }),
    native: digests({
      description:
        'The modules of native plugins that may run: the file, which stays where it is, and its SHA-256. No other is installed or loaded.',
    }),
    max_queued_calls: integer(1, 1_000_000, 1024, {
      description:
        'Calls that one thread holds, waiting ones included; one more is refused with RESOURCE_EXHAUSTED (429).',
    }),
    drain_ms: integer(0, 600_000, 10_000, {
      description: 'Longest wait for running calls when a plugin is replaced, disabled or stopped.',
    }),
    log_lines: integer(1, 100_000, 1000, {
      description: 'Log lines of each plugin that are kept in memory for `noa plugin logs`.',
    }),
  },
  events: {
    max_age_hours: integer(1, 24 * 366, 24 * 7, {
      description: 'Age at which events are deleted, delivered or not.',
    }),
    max_count: integer(100, 10_000_000, 20_000, {
      description:
        'Events of one plugin that are kept; beyond, its oldest are deleted, delivered or not.',
    }),
    max_bytes: integer(MiB, 2 ** 50, 256 * MiB, {
      description:
        'Bytes that the events of one plugin have together; beyond, its oldest are deleted, delivered or not.',
    }),
    max_per_second: integer(1, 100_000, 200, {
      description:
        'Events that one plugin publishes in a second on each host; one of more than 16 KiB counts for each 16 KiB of it.',
    }),
    attempts: integer(1, 100, 10, {
      description: 'Deliveries of one event to one export before it goes to the dead letters.',
    }),
    retry_ms: integer(10, 300_000, 1000, {
      description:
        'Wait after the first failed delivery; it doubles with each, up to five minutes, less up to half at random.',
    }),
  },
  auth: {
    bootstrap_token: secretText(
      '32 to 512 printable ASCII characters without white space',
      (text) => /^[\x21-\x7e]{32,512}$/.test(text),
      {
        description:
          'Bearer credential of the first administrator; without it one is made at the first start, printed once and kept in the data folder.',
      },
    ),
    root_key: secretText(
      'the base64 form of at least 32 random bytes, such as `openssl rand -base64 32` prints',
      (text) => /^[A-Za-z0-9+/_-]{43,1024}={0,2}$/.test(text),
      {
        description:
          'Key from which all token keys and the key of the secrets are derived; without it one is made and kept in the data folder. Hosts that share a database must share it.',
      },
    ),
    token_life_seconds: integer(60, 300, 120, {
      description: 'Life of a capability token; it is renewed at two thirds.',
    }),
    issuer: url(['https', 'http'], {
      description:
        'What `iss` of the access tokens made here says; unset it is `urn:noa`. Hosts that share a database must share it.',
    }),
    access_token_life_seconds: integer(60, 3600, 600, {
      description: 'Life of an access token.',
    }),
    refresh_token_life_seconds: integer(300, 90 * 86_400, 14 * 86_400, {
      description:
        'How long after a client showed its secret its access can be refreshed without it.',
    }),
    issuers,
  },
  gateway: {
    default_policy: choice(['allow', 'deny'], 'allow', {
      reloadable: true,
      description:
        'What becomes of a call that no rule of `gateway.policies` speaks of: allow leaves it to scopes, deny refuses it unless a rule with effect allow applies. The bootstrap credential needs no such rule.',
    }),
    policies,
    idempotency: {
      keep_hours: integer(1, 168, 24, {
        description: 'How long the answer to a request with an Idempotency-Key is kept.',
      }),
      max_answer_bytes: integer(0, 16 * MiB, MiB, {
        description: 'Largest answer that is kept; a larger one is not, and says so.',
      }),
      max_keys: integer(1, 1_000_000, 10_000, {
        description: 'Keys of one caller that are kept; one more is refused (429).',
      }),
      max_bytes: integer(0, 2 ** 40, 64 * MiB, {
        description: 'Bytes of the kept answers of one caller together; beyond, no more are kept.',
      }),
    },
    levels: {
      l1: requestsAMinute(200, 'L1, the highest'),
      l2: requestsAMinute(150, 'L2'),
      l3: requestsAMinute(120, 'L3'),
      l4: requestsAMinute(80, 'L4'),
      l5: requestsAMinute(40, 'L5 (that of everyone without a level)'),
    },
    routes,
    hook_timeout_ms: integer(10, 60_000, 1000, {
      description:
        'Longest call of a hook of a plugin; a hook before a request that takes longer has failed.',
    }),
    ca_path: path(undefined, {
      description:
        'PEM certificate authorities that upstreams of `gateway.routes` may be certified by, beside the public ones.',
    }),
  },
  observability,
};

export type Tree = { readonly [name: string]: Key<unknown> | Tree };

type Settings<T> = {
  readonly [K in keyof T]: T[K] extends Key<infer V> ? V : Settings<T[K]>;
};

/** The configuration of a host: frozen, every value within its rule. */
export type Config = Settings<typeof KEYS>;

export interface NamedKey {
  /** `server.port` */
  readonly path: string;
  /** `NOA_SERVER__PORT` */
  readonly variable: string;
  readonly key: Key<unknown>;
}

export function isKey(node: Key<unknown> | Tree): node is Key<unknown> {
  return typeof node['read'] === 'function';
}

export const KEY_LIST: readonly NamedKey[] = [...flatten(KEYS, [])];

function* flatten(tree: Tree, above: readonly string[]): Generator<NamedKey> {
  for (const [name, node] of Object.entries(tree)) {
    const names = [...above, name];
    if (!isKey(node)) yield* flatten(node, names);
    else {
      const variable = `NOA_${names.join('__').toUpperCase()}`;
      yield { path: names.join('.'), variable, key: node };
    }
  }
}
