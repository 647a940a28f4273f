/**
 * Errors and streams in the form of other APIs, for the paths at which their clients expect it. Invariant:
 * the status is the host's own, and nothing is told that a problem document would not tell.
 */
import type { Dialect, ErrorCode, JsonSchema, NoaError } from '@noa/sdk/host';
import type { FastifyRequest } from 'fastify';
import { object, orNull, text } from './answer-schema.ts';
import { type Problem, problem } from './problem-document.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The form of the route's errors; problem documents when absent. */
    dialect?: Dialect | undefined;
  }
}

/** https://platform.openai.com/docs/guides/error-codes: what clients tell errors apart by. */
interface OpenAiError {
  readonly message: string;
  readonly type: string;
  readonly param: string | null;
  readonly code: string;
}

const OPENAI_CODES: { readonly [code in ErrorCode]?: string } = {
  UNAUTHENTICATED: 'invalid_api_key',
  NOT_FOUND: 'model_not_found',
  RATE_LIMITED: 'rate_limit_exceeded',
};
const OPENAI_TYPES: { readonly [status: number]: string } = {
  401: 'authentication_error',
  403: 'permission_error',
  429: 'rate_limit_error',
};

const OPENAI_SCHEMA = object<{ error: OpenAiError }>(
  {
    error: object<OpenAiError>({
      message: text('Names the field, the rule and the fix.'),
      type: text(),
      param: orNull(text('The parameter that is wrong.')),
      code: text('Stable.'),
    }),
  },
  { title: 'OpenAiError' },
);
const OIP_SCHEMA = object<{ error: string }>(
  { error: text('Names the field, the rule and the fix.') },
  { title: 'InferenceProtocolError' },
);

/** Of the bodies of errors. */
export const DIALECT_ERRORS: { readonly [dialect in Dialect]: JsonSchema } = {
  openai: OPENAI_SCHEMA,
  oip: OIP_SCHEMA,
};

export function dialectOf(request: FastifyRequest): Dialect | undefined {
  return request.exchange.matched.config?.dialect;
}

/** The body of an error answer. */
export function errorBody(
  dialect: Dialect,
  { code, detail, status, errors }: Problem,
): { error: OpenAiError | string } {
  if (dialect === 'oip') return { error: detail };
  const type = OPENAI_TYPES[status] ?? (status < 500 ? 'invalid_request_error' : 'server_error');
  const { param = parameterOf(errors), message = detail } = fieldOf(detail);
  const error = {
    message,
    type,
    param,
    code: OPENAI_CODES[code] ?? code.toLowerCase(),
  };
  return { error };
}

/** The field that an error begins with; what is a parameter of a generation is a member of the body here. */
function fieldOf(detail: string): { param?: string; message?: string } {
  const found = /^(?:parameters\/)?([A-Za-z_]\w*(?:\/\w+)*): /.exec(detail);
  if (found === null) return {};
  const [, path = ''] = found;
  return { param: parameterAt(path), message: detail.replace(/^parameters\//, '') };
}

/** The first that broke the schema. */
function parameterOf(errors: unknown): string | null {
  const first: unknown = Array.isArray(errors) ? errors[0] : undefined;
  const path: unknown =
    typeof first === 'object' && first !== null ? Reflect.get(first, 'path') : '';
  if (typeof path !== 'string' || path === '') return null;
  return parameterAt(path.slice(1));
}

/** As `messages[0].role`. */
function parameterAt(path: string): string {
  return path
    .split('/')
    .map((step, i) => (/^\d+$/.test(step) ? `[${step}]` : `${i > 0 ? '.' : ''}${step}`))
    .join('');
}

/** How the parts of a streamed answer are written as server-sent events. */
export interface Frames {
  value(json: string, count: number): string;
  /** Of what the export answers in the end. */
  result(json: string): string;
  error(error: NoaError): string;
}

/** Data alone, and `[DONE]` at the end; what the export answers besides is nobody's. */
export const OPENAI_FRAMES: Frames = {
  value: (json) => `data: ${json}\n\n`,
  result: () => 'data: [DONE]\n\n',
  error: (error) => `data: ${JSON.stringify(errorBody('openai', problem(error)))}\n\n`,
};
