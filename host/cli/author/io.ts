/** What the author's commands need of the command line around them. */
import type { Json } from '@noa/sdk/host';

export interface AuthorIo {
  /** Writes one result: lines for people, or one JSON line when `--json` was given. */
  result(value: object, text: string): void;
  /** Writes a line for people to the error output: progress and warnings. Silent with `--json`. */
  note(text: string): void;
  /** Whether `--json` was given. */
  readonly json: () => boolean;
  /** Aborts at the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  /** The host that `--url` and `--token` lead to; undefined when none answers there. */
  connect(): Promise<DevHost | undefined>;
}

/** A running host, with an administrator's credential. */
export interface DevHost {
  readonly url: string;
  /** Sends a request of the REST form, a bundle as its body if any. Rejects with the host's NoaError. */
  send(method: 'GET' | 'POST' | 'PUT', path: string, bundle?: Uint8Array): Promise<Json>;
}
