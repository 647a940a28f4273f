/**
 * The one value that every transport makes: who calls which export of which plugin with what, until
 * when. Transports translate a frame into it and its result or NoaError back; nothing else.
 */
import type { Json, Span } from '@noa/sdk/host';
import type { Chain, Principal } from './chain.ts';
import type { Emit } from './emission.ts';

export interface Invocation {
  /** Request id (`x-request-id`), joins logs, audit and answers. */
  readonly id: string;
  readonly plugin: string;
  readonly export: string;
  readonly input: Json;
  /** The JSON text of `input` when the transport has it already; saves writing it again. */
  readonly text?: string;
  readonly principal: Principal;
  /** Milliseconds since the epoch; the export's own time-out applies when it is sooner. */
  readonly deadline?: number;
  /** Aborts when the caller goes away. */
  readonly signal: AbortSignal;
  /** W3C trace id (32 hex digits). */
  readonly traceId: string;
  /**
   * Takes the values of an export with `stream: true`, one at a time, while the call runs. Without it the
   * answer to such an export is `{items, result}`; to any other export it makes no difference.
   */
  readonly emit?: Emit;
  /** Present when a plugin calls: the calls above this one. */
  readonly chain?: Chain;
  /** What the call is a part of, when it is traced. */
  readonly span?: Span | undefined;
}

export interface Outcome {
  /** The export's output, checked against its schema. */
  readonly value: Json;
  /** The same as the JSON text that the plugin wrote. */
  readonly text: string;
}
