/** What is asked of a WebSocket's handshake beside an identity: its origin, its subprotocol. */
import type { IncomingMessage } from 'node:http';
import { NoaError } from '@noa/sdk/host';

const PROTOCOLS = 'sec-websocket-protocol';
/** How a browser, which cannot set `Authorization` here, sends its credential. */
const BEARER = 'noa.bearer.';

/**
 * Makes a credential among the subprotocols the request's `Authorization`, and takes it out of them, so that
 * nothing after this sees or repeats it. Answers whether there was one.
 */
export function liftCredential({ headers }: IncomingMessage): boolean {
  const offered = offeredIn(headers);
  const credential = offered.find((name) => name.startsWith(BEARER));
  if (credential === undefined) return false;
  headers.authorization ??= `Bearer ${credential.slice(BEARER.length)}`;
  const rest = offered.filter((name) => !name.startsWith(BEARER));
  if (rest.length > 0) headers[PROTOCOLS] = rest.join(', ');
  else delete headers[PROTOCOLS];
  return true;
}

/**
 * Throws PERMISSION_DENIED when a page of an origin that is neither the host's own nor among these opens
 * the connection. What sends no origin is no browser, and is asked for nothing but its credential.
 */
export function assertOrigin(
  { headers }: Pick<IncomingMessage, 'headers'>,
  allowed: readonly string[],
): void {
  const { origin, host } = headers;
  if (origin === undefined || allowed.includes(origin)) return;
  if (URL.canParse(origin) && new URL(origin).host === host?.toLowerCase()) return;
  const text =
    'origin: pages of this origin may not open connections; an administrator can add it to server.allowed_origins';
  throw new NoaError('PERMISSION_DENIED', text);
}

/** Throws INVALID_ARGUMENT when the client would not accept the answer, which names `protocol` or none. */
export function takeProtocol(
  { headers }: Pick<IncomingMessage, 'headers'>,
  protocol: string,
  mustName: boolean,
): void {
  const offered = offeredIn(headers);
  if (offered.includes(protocol) || (offered.length === 0 && !mustName)) return;
  const text = `${PROTOCOLS}: offer ${protocol}, beside ${BEARER}<token> where the credential comes so`;
  throw new NoaError('INVALID_ARGUMENT', text);
}

function offeredIn(headers: IncomingMessage['headers']): string[] {
  return (headers[PROTOCOLS]?.split(',') ?? []).map((name) => name.trim());
}
