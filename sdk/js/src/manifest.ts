/** The manifest `plugin.json`: its type, and the limits that hold where it says nothing. */
import type { Json, JsonSchema } from './json.ts';

/** Version of the contract between host and plugin; a manifest's `noa` range is matched against it. */
export const ABI_VERSION = '1.1.0';

export interface ExportSpec {
  input?: JsonSchema;
  output?: JsonSchema;
  /** Deadline of one call in milliseconds; never longer than the plugin's own `limits.timeoutMs`. */
  timeoutMs?: number;
  /** The host may repeat the call after a failure that was not the plugin's. */
  idempotent?: boolean;
  /** It may emit values before it answers; a caller that takes no stream gets `{items, result}`. */
  stream?: boolean;
}

export interface RouteSpec {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Path below `/plugins/<name>`, with `:param` segments; of a built-in plugin the whole path when `at` is `root`. */
  path: string;
  export: string;
  /** Status of a successful answer; 200 when absent. */
  status?: number;
  /** One line for the reference, as an imperative. */
  summary?: string;
  /** For built-in plugins: the path is one of the host's own. */
  at?: 'root';
  /** Of a path at the root: errors and streams have the form of that API. */
  dialect?: Dialect;
  /**
   * When an export with `stream: true` is answered as server-sent events: for a request whose `Accept` names
   * them when absent; with `body`, for one whose member `stream` is true, and all others get its result alone.
   */
  streams?: 'body';
  /**
   * Of a path at the root: media types of bodies that are taken as bytes, beside JSON. The export is given
   * `content: {mediaType, base64}` in their place.
   */
  takes?: string[];
}

/** `openai`: the OpenAI API; `oip`: the Open Inference Protocol, version 2. */
export type Dialect = 'openai' | 'oip';

/** A gRPC method that an export answers; its messages are the export's input and output. */
export interface GrpcMethodSpec {
  /** Such as `noa.api.v1.InferenceService/Invoke`. */
  method: string;
  export: string;
}

/** Events that are delivered to an export, whose input is the CloudEvent. Asks for `events.subscribe`. */
export interface SubscriptionSpec {
  /** Exact, or a prefix that ends in `*`. */
  subject: string;
  export: string;
}

/**
 * An export that takes part in the requests of others. Before a request it is given what `gateway` in the
 * capabilities' reference says, and answers `{}`, `{deny: {code, message}}` or `{setHeaders: {request?,
 * response?}}`. Asks for the right `gateway` to do so.
 */
export interface HookSpec {
  on: 'beforeRequest' | 'afterResponse';
  export: string;
  /** Operations as metrics name them (`GET /plugins/notes/notes/:id`), or prefixes that end in `*`. */
  operations: string[];
  /** Lower ones run first; 0 when absent. */
  order?: number;
  /** Requests go on while this hook fails; else they are refused. */
  failOpen?: boolean;
}

/** Times at which an export is called: `cron` or `everyMs`. */
export interface ScheduleSpec {
  name: string;
  cron?: string;
  everyMs?: number;
  /** Of `cron`, an IANA name; UTC when absent. */
  timezone?: string;
  export: string;
  input?: Json;
}

export interface CapabilityRequest {
  capability: string;
  operations: string[];
  /** Exact names or prefixes that end in `*`. */
  resources: string[];
  /** The plugin serves without it; its use is refused until it is granted. */
  optional?: boolean;
  /** Shown to the administrator who decides. */
  reason: string;
}

export interface Dependency {
  plugin: string;
  /** Semver range; any version when absent. */
  version?: string;
  /** An absent or failing optional dependency never blocks this plugin. */
  optional?: boolean;
}

export interface Limits {
  memoryMiB: number;
  timeoutMs: number;
  concurrency: number;
  maxInputBytes: number;
  maxOutputBytes: number;
}

export interface ModuleRuntime {
  kind: 'wasm' | 'native';
  /** Path of the module inside the plugin. */
  file: string;
  sha256?: string;
}

export interface Manifest {
  $schema?: string;
  name: string;
  version: string;
  description?: string;
  license?: string;
  homepage?: string;
  /** Semver range of the ABI; the present major version when absent. */
  noa?: string;
  /**
   * `wasm` runs in the sandbox. `native` is a JavaScript module that runs as a program of the host's user,
   * on hosts whose operator has listed this very file. `builtin` is a part of the host, and has no module.
   */
  runtime: ModuleRuntime | { kind: 'builtin'; file?: undefined; sha256?: undefined };
  needs?: Dependency[];
  /** Names that other plugins may need, with the version provided; the plugin's own name is implied. */
  provides?: { [name: string]: string };
  exports: { [name: string]: ExportSpec };
  contributes?: {
    routes?: RouteSpec[];
    grpc?: GrpcMethodSpec[];
    subscriptions?: SubscriptionSpec[];
    schedules?: ScheduleSpec[];
    hooks?: HookSpec[];
  };
  capabilities?: CapabilityRequest[];
  /** JSON Schema of the plugin's configuration; a property with `secret: true` is never shown. */
  config?: JsonSchema;
  limits?: Partial<Limits>;
}

export const DEFAULT_LIMITS: Limits = {
  memoryMiB: 64,
  timeoutMs: 5000,
  concurrency: 16,
  maxInputBytes: 1 << 20,
  maxOutputBytes: 4 << 20,
};

/** The module that a plugin brings; undefined of a built-in one. */
export function moduleOf({ runtime }: Manifest): ModuleRuntime | undefined {
  return runtime.kind === 'builtin' ? undefined : runtime;
}

/** The limits that hold for a plugin: its own where it names them, the defaults elsewhere. */
export function effectiveLimits(manifest: Manifest): Limits {
  return { ...DEFAULT_LIMITS, ...manifest.limits };
}
