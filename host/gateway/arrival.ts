/**
 * What is known of a call before its body, whichever transport brings it: all that the gateway judges by.
 * Invariant: who the caller is comes from its credential alone, never from another header.
 */
export interface Arrival {
  readonly transport: 'http' | 'grpc' | 'websocket';
  /** `x-request-id`. */
  readonly requestId: string;
  /** W3C trace id. */
  readonly traceId: string;
  /** HTTP's; POST for gRPC. */
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  /** The header or metadata of this name (RFC 9110 section 11.6.2). */
  readonly authorization: string | undefined;
  /** `x-api-key`. */
  readonly apiKey?: string | undefined;
  readonly remoteAddress: string | undefined;
  /** Whether the connection has shown a client certificate that this host trusts; not when absent. */
  readonly clientCertificate?: boolean;
}
