/** What stands behind `http` in a test: answers that the test scripts, and no network. */
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import { text } from './fakes.ts';

type Arguments = { readonly [name: string]: Json };

/** A request that the plugin made. */
export interface SentRequest {
  readonly method: string;
  readonly url: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** As text; empty when there was none. */
  readonly body: string;
}

export interface FakeAnswer {
  /** 200 when absent. */
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly setCookie?: readonly string[];
  readonly body?: string | Uint8Array;
  /** In place of `body`: a JSON-able value. */
  readonly json?: unknown;
}

type Responder = FakeAnswer | ((request: SentRequest) => FakeAnswer);

export class FakeHttp {
  /** Every request so far, in order. */
  readonly requests: SentRequest[] = [];
  readonly #answers: { matches: (request: SentRequest) => boolean; answer: Responder }[] = [];

  /**
   * Answers requests whose URL matches, or is this text. The latest match wins; a function may throw
   * NoaError, as the host would. A request that nothing matches fails with UNAVAILABLE.
   */
  onRequest(match: string | RegExp | ((request: SentRequest) => boolean), answer: Responder): this {
    const matches =
      typeof match === 'function'
        ? match
        : ({ url }: SentRequest) =>
            typeof match === 'string' ? url === match : url.search(match) >= 0;
    this.#answers.unshift({ matches, answer });
    return this;
  }

  invoke(operation: string, args: Arguments): Json {
    if (operation !== 'request') {
      throw new NoaError('INVALID_ARGUMENT', `http has no operation ${JSON.stringify(operation)}`);
    }
    const request = requestOf(args);
    this.requests.push(request);
    const found = this.#answers.find(({ matches }) => matches(request));
    if (found === undefined) {
      const message = `the test answers no such request; add host.http.onRequest(…, {body}) for: ${request.method} ${request.url}`;
      throw new NoaError('UNAVAILABLE', message);
    }
    const answer = typeof found.answer === 'function' ? found.answer(request) : found.answer;
    const { status = 200, headers = {}, setCookie, json } = answer;
    const body = json === undefined ? (answer.body ?? '') : JSON.stringify(json);
    return {
      status,
      headers: {
        ...(json !== undefined && { 'content-type': 'application/json' }),
        ...lowerCase(headers),
      },
      ...(setCookie && { setCookie: [...setCookie] }),
      url: request.url,
      ...(typeof body === 'string'
        ? { body }
        : { bodyBase64: Buffer.from(body).toString('base64') }),
    };
  }
}

/** `GET https://host:443/path`, also of a pattern that ends in `*`, as the host writes it. */
export function httpResource(written: string): string {
  const prefix = written.endsWith('*');
  const [method = '', address = ''] = (prefix ? `${written.slice(0, -1)}x` : written).split(' ');
  const url = parse(address);
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  const resource = `${method} ${url.protocol}//${url.hostname}:${port}${url.pathname}`;
  return prefix ? `${resource.slice(0, -1)}*` : resource;
}

function requestOf(args: Arguments): SentRequest {
  const { headers, body, bodyBase64 } = args;
  const address = parse(text(args, 'url'));
  address.hash = '';
  return {
    method: text(args, 'method'),
    url: address.href,
    headers: lowerCase((headers ?? {}) as Record<string, string>),
    body:
      typeof bodyBase64 === 'string'
        ? Buffer.from(bodyBase64, 'base64').toString()
        : typeof body === 'string'
          ? body
          : '',
  };
}

function parse(written: string): URL {
  const url = URL.parse(written);
  if (url !== null && /^https?:$/.test(url.protocol)) return url;
  throw new NoaError('INVALID_ARGUMENT', 'http: url must be an absolute URL of http or https');
}

function lowerCase(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]),
  );
}
