/** What every answer has: its headers, and the problem documents of each status, from the one table of errors. */
import { ERROR_KINDS, type ErrorCode, type JsonSchema } from '@noa/sdk/host';
import { object, oneOf, text } from '../answer-schema.ts';
import { type Problem, PROBLEM_TYPE } from '../problem-document.ts';
import { keyErrorsOf } from './keys.ts';

type Node = { readonly [key: string]: unknown };

const VIOLATION = object<{ path: string; rule: string; message: string; fix?: string }>(
  {
    path: text('JSON Pointer of the value.'),
    rule: text('The keyword of the schema.'),
    message: text('The rule in words.'),
    fix: text('What to write instead.'),
  },
  { optional: ['fix'] },
);

/** RFC 9457. */
const PROBLEM: JsonSchema = object<Omit<Problem, 'errors' | 'details'>>(
  {
    type: { type: 'string', format: 'uri' },
    title: text(),
    status: { type: 'integer', minimum: 400, maximum: 599 },
    detail: text('Names the field, the rule and the fix.'),
    code: oneOf(Object.keys(ERROR_KINDS), 'Stable.'),
    instance: text('The path that was asked for.'),
    traceId: { type: 'string', pattern: '^[0-9a-f]{32}$' },
  },
  { title: 'Problem', optional: ['instance', 'traceId'] },
);

export const PROBLEM_SCHEMA: JsonSchema = {
  ...PROBLEM,
  properties: {
    ...(PROBLEM['properties'] as Node),
    errors: { type: 'array', items: VIOLATION, description: 'What broke a schema.' },
    details: { description: 'Other particulars.' },
  },
};

const NUMBER = { type: 'integer', minimum: 0 };
const SECONDS = { type: 'integer', minimum: 1 };

export const HEADERS = {
  RequestId: {
    description:
      'Names the request in the logs of the host; the one of the request when it is sound.',
    schema: { type: 'string', pattern: '^[A-Za-z0-9._:/+=@-]{1,128}$' },
  },
  Traceparent: {
    description: 'W3C Trace Context: the trace of the request when it has one, else a new one.',
    schema: { type: 'string', pattern: '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' },
  },
  RetryAfter: { description: 'Seconds to wait before another try.', schema: SECONDS },
  Challenge: { description: 'How to authenticate (RFC 6750).', schema: { type: 'string' } },
  RateLimitLimit: {
    description: "Requests a minute that the caller's level allows.",
    schema: NUMBER,
  },
  RateLimitRemaining: { description: 'More that would be admitted now.', schema: NUMBER },
  RateLimitReset: { description: 'Seconds until more are.', schema: NUMBER },
  RateLimitPolicy: {
    description: 'The level as a policy (draft-ietf-httpapi-ratelimit-headers).',
    schema: { type: 'string' },
  },
  RateLimit: { description: 'What remains of the policy.', schema: { type: 'string' } },
  Location: { description: 'Path of what was made.', schema: { type: 'string' } },
};

/** Names of `HEADERS` by the header's own name. */
const ALWAYS = { 'x-request-id': 'RequestId', traceparent: 'Traceparent' } as const;
/** Of answers to callers whose rate is limited. */
const LIMITED = {
  'ratelimit-limit': 'RateLimitLimit',
  'ratelimit-remaining': 'RateLimitRemaining',
  'ratelimit-reset': 'RateLimitReset',
  'ratelimit-policy': 'RateLimitPolicy',
  ratelimit: 'RateLimit',
} as const;
const OF_STATUS: { readonly [status: number]: { readonly [name: string]: keyof typeof HEADERS } } =
  {
    401: { 'www-authenticate': 'Challenge' },
    429: { 'retry-after': 'RetryAfter' },
    503: { 'retry-after': 'RetryAfter' },
    504: { 'retry-after': 'RetryAfter' },
  };

export function headersOf(status: number, open = false, made = false): Node {
  const names = Object.entries({
    ...ALWAYS,
    ...(open ? {} : LIMITED),
    ...OF_STATUS[status],
    ...(made ? { location: 'Location' } : {}),
  });
  return Object.fromEntries(
    names.map(([name, component]) => [name, { $ref: `#/components/headers/${component}` }]),
  );
}

const codes = Object.entries(ERROR_KINDS);
const ofStatus = Map.groupBy(codes, ([, { status }]) => status);

/** One response for each status, which tells the codes that come with it. */
export const PROBLEM_RESPONSES: Node = Object.fromEntries(
  [...ofStatus].map(([status, kinds]) => [
    `Problem${status}`,
    {
      description: kinds.map(([code, { title }]) => `\`${code}\`: ${title}.`).join(' '),
      headers: headersOf(status),
      content: { [PROBLEM_TYPE]: { schema: { $ref: '#/components/schemas/Problem' } } },
    },
  ]),
);

/** The responses for these codes, by status. */
export function problemsOf(wanted: Iterable<ErrorCode>): { [status: string]: Node } {
  const statuses = new Set([...wanted].map((code) => ERROR_KINDS[code].status));
  return Object.fromEntries(
    [...statuses].map((status) => [
      String(status),
      { $ref: `#/components/responses/Problem${status}` },
    ]),
  );
}

/** What any request may be answered with … */
const ANY: readonly ErrorCode[] = ['INVALID_ARGUMENT', 'INTERNAL', 'UNAVAILABLE'];
/** … one that asks for a credential … */
const GUARDED: readonly ErrorCode[] = ['UNAUTHENTICATED', 'PERMISSION_DENIED', 'RATE_LIMITED'];
/** … and one with a body, which may come with any method but GET, wanted or not. */
const WITH_BODY: readonly ErrorCode[] = ['PAYLOAD_TOO_LARGE', 'UNSUPPORTED_MEDIA_TYPE'];

/** What every operation with this method may answer instead of what was asked for. */
export function commonErrors(method: string, open = false): ErrorCode[] {
  return [
    ...ANY,
    ...(open ? [] : [...GUARDED, ...keyErrorsOf(method)]),
    ...(method === 'GET' ? [] : WITH_BODY),
  ];
}
