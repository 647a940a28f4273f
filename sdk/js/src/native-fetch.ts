/**
 * The global `fetch` of handlers that run natively: inside a handler it goes through the door, as in the
 * sandbox; outside, in a test or in what a native plugin starts by itself, it stays what it was.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Http, HttpRequest } from './ports.ts';

const ports = new AsyncLocalStorage<Http>();
let installed = false;

/** Runs a handler, with all that it starts, over this port. */
export function withFetch<Result>(http: Http, run: () => Result): Result {
  if (!installed) {
    installed = true;
    const original = globalThis.fetch;
    globalThis.fetch = async (input, init = {}) => {
      const inside = ports.getStore();
      return inside === undefined
        ? original(input, init)
        : throughPort(inside, new Request(input, init), init);
    };
  }
  return ports.run(http, run);
}

async function throughPort(
  http: Http,
  request: Request,
  { body: given, redirect }: RequestInit,
): Promise<Response> {
  request.signal.throwIfAborted();
  const isText = typeof given === 'string' || given instanceof URLSearchParams;
  const bytes = Buffer.from(await request.bytes());
  const answer = await http.request({
    method: request.method as HttpRequest['method'],
    url: request.url,
    headers: Object.fromEntries(request.headers),
    ...(redirect && { redirect }),
    ...(given != null && { body: isText ? bytes.toString() : bytes }),
  });
  const { status, headers, setCookie = [], body = '', bytes: binary, url } = answer;
  const content = binary ?? body;
  const response = new Response([204, 205, 304].includes(status) ? null : content, {
    status,
    headers: [
      ...Object.entries(headers),
      ...setCookie.map((cookie): [string, string] => ['set-cookie', cookie]),
    ],
  });
  if (headers['content-type'] === undefined) response.headers.delete('content-type');
  Object.defineProperty(response, 'url', { value: url });
  return response;
}
