/**
 * Extism's three HTTP imports over the capability `http`: the same door as every other call, so what is
 * not granted ends the guest's call with CAPABILITY_DENIED, as a host that is not allowed ends it there.
 */
import type { ErrorBody } from '@noa/sdk/host';
import type { Arena } from './arena.ts';

const MAX_REQUEST_BYTES = 1 << 20;
/** To read or write a byte of JSON costs as much as so many copied. */
const JSON_WEIGHT = 16;

/** Ends the call with an error that the caller sees with its own code. */
export class GuestFailure extends Error {
  readonly body: ErrorBody;

  constructor(body: ErrorBody) {
    super(body.message);
    this.body = body;
  }
}

interface Answer {
  readonly status: number;
  readonly headers: { readonly [name: string]: string };
  readonly body?: string;
}

type Reply =
  | { readonly ok: true; readonly value: Answer }
  | { readonly ok: false; readonly error: ErrorBody };

export class ExtismHttp {
  /** Of the last answer; 0 before one. */
  status = 0;
  readonly #arena: Arena;
  readonly #call: (request: number, attachment: number) => bigint | Promise<bigint>;
  readonly #charge: (bytes: number) => void;
  #headers = '';

  /**
   * `call` is noa_call_bytes: it takes blocks and answers the block of the reply. `charge` counts work
   * that depends on a length, in bytes copied, before it is done.
   */
  constructor(
    arena: Arena,
    call: (request: number, attachment: number) => bigint | Promise<bigint>,
    charge: (bytes: number) => void,
  ) {
    this.#arena = arena;
    this.#call = call;
    this.#charge = charge;
  }

  /** A block with the headers of the last answer as a JSON object; 0 before one. */
  headers(): bigint {
    this.#charge(this.#headers.length);
    return BigInt(this.#arena.put(this.#headers));
  }

  /** Takes the blocks of `{url, method?, headers?}` and of the body; answers the block of the body. */
  async request(asked: number, body: number): Promise<bigint> {
    const arena = this.#arena;
    this.status = 0;
    this.#headers = '';
    const size = Math.min(arena.size(asked), MAX_REQUEST_BYTES);
    this.#charge(JSON_WEIGHT * size + arena.size(body));
    const { url, method = 'GET', headers, header } = parse(arena.text(asked, size));
    const verb = typeof method === 'string' ? method.toUpperCase() : method;
    const content = verb === 'GET' || verb === 'HEAD' ? 0 : arena.size(body);
    const request = arena.put(
      JSON.stringify({
        capability: 'http',
        operation: 'request',
        arguments: {
          method: verb,
          url,
          headers: headers ?? header,
          ...(content > 0 && { bodyBase64: { $bytes: [0, content] } }),
        },
      }),
    );
    if (request === 0) {
      const message = 'http_request: the request does not fit into the memory of the sandbox.';
      throw new GuestFailure({ code: 'RESOURCE_EXHAUSTED', message });
    }
    const block = Number(await this.#call(request, content > 0 ? body : 0));
    this.#charge(JSON_WEIGHT * arena.size(block));
    const reply = JSON.parse(arena.text(block, arena.size(block)) ?? 'null') as Reply; // the host's own text
    arena.drop(request);
    arena.drop(block);
    if (!reply.ok) throw new GuestFailure(reply.error);
    this.status = reply.value.status;
    this.#headers = JSON.stringify(reply.value.headers);
    return BigInt(arena.takeBeside() || arena.put(reply.value.body ?? ''));
  }
}

function parse(text: string | undefined): { readonly [name: string]: unknown } {
  try {
    const value: unknown = JSON.parse(text ?? '');
    if (typeof value === 'object' && value !== null) return { ...value };
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
  }
  const message = 'http_request takes a block with JSON {"url": string, "method"?, "headers"?}.';
  throw new GuestFailure({ code: 'INVALID_ARGUMENT', message });
}
