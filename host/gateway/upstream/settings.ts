/** What the configuration says of one route to other servers. */
import type { BreakerSettings } from './breaker.ts';

export interface ServerSettings {
  /** http or https, host, port and a path that is put before what is asked for. */
  readonly url: string;
  readonly weight: number;
}

export interface HeaderRules {
  readonly set: { readonly [name: string]: string };
  readonly remove: readonly string[];
}

export interface RetrySettings {
  /** The first one included. */
  readonly attempts: number;
  /** `connect`, `reset`, or statuses: `503`, `5xx`. */
  readonly on: readonly string[];
  readonly backoff_ms: number;
}

/** One table of `gateway.routes`, with its defaults. */
export interface RouteSettings {
  readonly name: string;
  /** Prefix of paths, whole segments. */
  readonly path: string;
  readonly methods: readonly string[];
  readonly upstreams: readonly ServerSettings[];
  readonly strip_prefix: boolean;
  /** What the caller's credential must have; any credential will do when absent. */
  readonly scope?: string;
  readonly timeout_ms: number;
  readonly connect_timeout_ms: number;
  /** To each upstream; as many requests again wait for one. */
  readonly max_connections: number;
  readonly max_body_bytes: number;
  readonly retries: RetrySettings;
  readonly breaker: BreakerSettings;
  readonly headers: { readonly request: HeaderRules; readonly response: HeaderRules };
  readonly forward_authorization: boolean;
  readonly forward_identity: boolean;
}

/** What frames a message, or says whom it is for and from: the gateway's to write. */
export const FRAMING =
  /^(host|connection|content-length|expect|forwarded|keep-alive|te|traceparent|trailer|transfer-encoding|upgrade|via|x-request-id|http2-settings|proxy-.*|x-forwarded-.*|x-noa-.*)$/;
