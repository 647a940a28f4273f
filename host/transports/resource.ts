/**
 * A fixed path and what may be done with it. Invariants: every path of the host knows all its methods, so
 * that another one is answered 405 with `Allow` (RFC 9110 section 15.5.6) and OPTIONS tells them; every
 * query and body is judged by a schema, and where none is named there may be nothing.
 */
import {
  compileCoercion,
  compileSchema,
  type JsonSchema,
  NoaError,
  type TextParameters,
} from '@noa/sdk/host';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { BUNDLE } from './body.ts';
import type { Contract } from './contract.ts';

/** The contract stands beside what keeps it, so that the two are changed together. */
export interface Action extends Contract {
  /** Of the JSON body; null stands for no body. */
  readonly body?: JsonSchema;
  readonly query?: JsonSchema;
  /** Part of a page and of no use alone: the document leaves it out. */
  readonly undocumented?: true;
  /** The body is a plugin's bundle, in bytes. */
  readonly bundle?: true;
  /** Runs before the body is read; may throw NoaError. */
  readonly before?: (request: FastifyRequest) => void;
  /** Its value, if any, is answered as JSON. */
  run(request: FastifyRequest, reply: FastifyReply): unknown;
}

type Actions = { readonly [method in 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE']?: Action };

const NOTHING: JsonSchema = { type: 'object', additionalProperties: false, properties: {} };
const NO_BODY: JsonSchema = { ...NOTHING, type: ['object', 'null'] };

export function resource(scope: FastifyInstance, url: string, actions: Actions): void {
  for (const [method, action] of Object.entries(actions)) {
    const { before } = action;
    const body = method === 'GET' || action.bundle ? {} : { body: action.body ?? NO_BODY };
    scope.route({
      method,
      url,
      schema: { querystring: action.query ?? NOTHING, ...body },
      validatorCompiler: ({ schema, httpPart }) => compileCheck(schema as JsonSchema, httpPart),
      config: {
        contract: action.undocumented ? null : action,
        ...(action.bundle ? { takes: BUNDLE } : {}),
      },
      ...(before && {
        preParsing: (request, _reply, _payload, done) => {
          before(request);
          done();
        },
      }),
      handler: (request, reply) => action.run(request, reply),
    });
  }
  const methods = Object.keys(actions).flatMap((name) =>
    name === 'GET' ? [name, 'HEAD'] : [name],
  );
  scope.route({
    method: scope.supportedMethods.filter((method) => !methods.includes(method)),
    url,
    config: { contract: null },
    // A hook, so that no body is read first. It always answers and so never goes on.
    preParsing: (request, reply, _payload, _done) => refuseMethod(request, reply, methods),
    handler: () => undefined,
  });
}

/** Answers 201 with what was made and where it is. */
export function created<T>(reply: FastifyReply, location: string, made: T): T {
  void reply.code(201).header('location', location);
  return made;
}

/** Answers OPTIONS with 204 and throws METHOD_NOT_ALLOWED for any other method, both with `Allow`. */
export function refuseMethod(
  request: FastifyRequest,
  reply: FastifyReply,
  methods: Iterable<string>,
): void {
  const allow = [...new Set([...methods, 'OPTIONS'])].join(', ');
  void reply.header('allow', allow);
  if (request.method === 'OPTIONS') {
    void reply.code(204).send();
    return;
  }
  const method = request.method.slice(0, 32);
  throw new NoaError('METHOD_NOT_ALLOWED', `${method} is not for this path: use ${allow}`);
}

/** The SDK's own check, so that what administrators send and a plugin's input are judged alike. */
function compileCheck(schema: JsonSchema, part: string | undefined) {
  const check = compileSchema(schema, { defaults: true, described: true });
  const isQuery = part === 'querystring';
  const coerce = isQuery ? compileCoercion(schema) : undefined;
  const where = isQuery ? 'the query' : 'the body';
  return (given: unknown): { value: unknown } | { error: Error } => {
    const value = coerce === undefined ? given : coerce(given as TextParameters);
    const broken = check(value);
    if (broken.length === 0) return { value };
    const text = broken.map(({ path, message }) => `${path} ${message}`.trimStart()).join('; ');
    return { error: new NoaError('INVALID_ARGUMENT', `${where}: ${text}`, { details: broken }) };
  };
}
