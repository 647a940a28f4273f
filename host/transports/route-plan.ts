/**
 * POST /v1/route: what this host would do with a call of this caller's, without doing it. Invariant: a plan
 * is answered only for a call that would be let through; what would refuse the call refuses the plan, with
 * the same code.
 */
import { covers, type Json, type JsonSchema, NoaError } from '@noa/sdk/host';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Gateway } from '../gateway/gateway.ts';
import type { Hooks } from '../gateway/hooks.ts';
import type { Advice } from '../kernel/advice.ts';
import { assertCovers } from '../kernel/caller-tokens.ts';
import type { Principal } from '../kernel/chain.ts';
import type { Right } from '../kernel/grants.ts';
import { anything, count, flag, list, object, oneOf, orNull, text, time } from './answer-schema.ts';
import { arrivalOf, principalOf } from './identity.ts';
import { CALL_ERRORS } from './plugins.ts';
import { resource } from './resource.ts';
import { BearerError } from './route-upstream.ts';
import {
  findTarget,
  PROTOCOLS,
  readPayload,
  type Target,
  type TargetOptions,
} from './route-target.ts';

export interface RoutePlanOptions extends TargetOptions {
  readonly gateway: Gateway;
  readonly hooks: Hooks;
  readonly advice: Pick<Advice, 'explain'>;
  readonly now: () => number;
}

interface Body {
  readonly request_id?: string;
  readonly protocol: string;
  readonly payload: { readonly [name: string]: Json };
  readonly required_permission?: string;
  readonly capability_scope?: string | CapabilityScope;
}

interface CapabilityScope {
  readonly capability: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
}

/** What happens to the call, in this order. */
type Step =
  | { readonly step: 'authenticate'; readonly subject: string }
  | { readonly step: 'policy'; readonly allowed_by: readonly string[] }
  | {
      readonly step: 'rate_limit';
      readonly level: string;
      readonly limit: number;
      readonly remaining: number;
    }
  | { readonly step: 'hook'; readonly plugin: string; readonly export: string }
  | { readonly step: 'authorize'; readonly scopes: readonly string[] }
  | { readonly step: 'dispatch'; readonly transport: string; readonly deadline_ms: number | null }
  | { readonly step: 'notify'; readonly plugin: string; readonly export: string };

interface RoutePlan {
  readonly operation: string;
  readonly transport: string;
  readonly target: Target;
  /** What the target may do, when it was asked for. */
  readonly capability: CapabilityScope | null;
  readonly steps: readonly Step[];
}

interface Answer {
  readonly request_id: string;
  readonly route_plan: RoutePlan;
  readonly policy_enforced: boolean;
  readonly timestamp: string;
}

const NAME = '^[a-z][a-z0-9-]{0,47}$';
const names = (pattern: string): JsonSchema => ({
  type: 'array',
  minItems: 1,
  maxItems: 32,
  items: { type: 'string', maxLength: 256, pattern },
});
const CAPABILITY_SCOPE: JsonSchema = {
  description:
    '`capability:resource` for any operation, or all of these operations on all of these.',
  type: ['string', 'object'],
  maxLength: 320,
  pattern: '^[a-z][a-z0-9-]{0,47}:[^\\s].*$',
  required: ['capability', 'operations', 'resources'],
  additionalProperties: false,
  properties: {
    capability: { type: 'string', pattern: NAME },
    operations: names('^[a-z][A-Za-z0-9]{0,47}$'),
    resources: names('^[^\\s].*$'),
  },
};
const BODY: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['protocol', 'payload'],
  properties: {
    request_id: { type: 'string', pattern: '^[A-Za-z0-9._:/+=@-]{1,128}$' },
    protocol: { type: 'string', enum: PROTOCOLS },
    payload: {
      type: 'object',
      description:
        '`{method?, path}` of rest, `{service, method}` of grpc, `{plugin, export}` of plugin; of the others, whatever they are asked.',
    },
    required_permission: { type: 'string', pattern: '^[a-z][a-z0-9:._-]{0,63}$' },
    capability_scope: CAPABILITY_SCOPE,
  },
};
/** Each step has what belongs to it. */
const STEP: JsonSchema = {
  type: 'object',
  required: ['step'],
  properties: {
    step: oneOf([
      'authenticate',
      'policy',
      'rate_limit',
      'hook',
      'authorize',
      'dispatch',
      'notify',
    ]),
    subject: text('Who calls.'),
    allowed_by: list(text(), 'The rules of policy that allow it.'),
    level: text(),
    limit: count('Requests a minute.'),
    remaining: count('Requests that are left.'),
    plugin: text(),
    export: text(),
    scopes: list(text(), 'What the credential must have, and has.'),
    transport: oneOf(['http', 'grpc']),
    deadline_ms: orNull(count('Longest time; null where the host sets none.')),
  },
};
const ANSWER = object<Answer>(
  {
    request_id: text(),
    route_plan: object<RoutePlan>({
      operation: text('As policies and metrics name the call.'),
      transport: oneOf(['http', 'grpc']),
      target: anything(
        '`{kind: "plugin", plugin, version, export}`, `{kind: "upstream", route, servers}` or `{kind: "host"}`.',
      ),
      capability: orNull(
        object<CapabilityScope>({
          capability: text(),
          operations: list(text()),
          resources: list(text()),
        }),
      ),
      steps: list(STEP, 'What happens to the call, in this order.'),
    }),
    policy_enforced: flag('Whether rules of policy were asked.'),
    timestamp: time(),
  },
  { title: 'RoutePlan' },
);

export function registerRoutePlan(scope: FastifyInstance, options: RoutePlanOptions): void {
  resource(scope, '/v1/route', {
    POST: {
      summary: 'Plan where a call would go',
      description:
        'The plan of this host for a call of this caller: what judges it, what answers it, and with which rights. Nothing is executed; what would refuse the call refuses the plan, with the same code.',
      tag: 'Gateway',
      body: BODY,
      answers: { 200: ANSWER },
      errors: ['METHOD_NOT_ALLOWED', ...CALL_ERRORS],
      run: (request) => plan(request, options),
    },
  });
}

function plan(request: FastifyRequest, options: RoutePlanOptions): Answer {
  const { gateway, hooks, now } = options;
  const body = request.body as Body; // as the schema has judged it
  const asked = readPayload(body.protocol, body.payload);
  const found = findTarget(options, asked);
  const { operation, permission } = found;
  const principal = principalOf(request);
  const arrival = { ...arrivalOf(request), ...asked };
  const policy = gateway.judge(arrival, principal, operation);
  const scopes = [permission, body.required_permission].filter((name) => typeof name === 'string');
  for (const name of scopes) gateway.requireScope(arrival, principal, name);
  const target = found.target();
  assertBearer(principal, target);
  const { rate } = request;
  const called = (step: 'hook' | 'notify', on: 'beforeRequest' | 'afterResponse'): Step[] =>
    hooks
      .of(on, operation, principal)
      .map(({ plugin, export: name }) => ({ step, plugin, export: name }));
  const steps: Step[] = [
    { step: 'authenticate', subject: principal.subject },
    ...(policy === undefined ? [] : [{ step: 'policy' as const, allowed_by: policy }]),
    ...(rate === undefined
      ? []
      : [
          {
            step: 'rate_limit' as const,
            level: rate.level,
            limit: rate.limit,
            remaining: rate.remaining,
          },
        ]),
    ...called('hook', 'beforeRequest'),
    { step: 'authorize', scopes },
    { step: 'dispatch', transport: asked.transport, deadline_ms: found.deadlineMs() },
    ...called('notify', 'afterResponse'),
  ];
  return {
    request_id: body.request_id ?? request.exchange.id,
    route_plan: {
      operation,
      transport: asked.transport,
      target,
      capability: capabilityOf(options, target, body.capability_scope),
      steps,
    },
    policy_enforced: policy !== undefined,
    timestamp: new Date(now()).toISOString(),
  };
}

/** What refuses the bearer of a capability token the call refuses them its plan. */
function assertBearer({ token }: Principal, target: Target): void {
  if (token === undefined) return;
  if (target.kind === 'plugin') assertCovers(token.view, `${target.plugin}/${target.export}`);
  else if (target.kind === 'upstream') throw new BearerError();
}

/** What the target is granted of the scope. Throws CAPABILITY_DENIED with what is missing. */
function capabilityOf(
  { advice, serving }: RoutePlanOptions,
  target: Target,
  scope: Body['capability_scope'],
): CapabilityScope | null {
  if (scope === undefined) return null;
  if (target.kind !== 'plugin') {
    const rule = 'capability_scope: only a plugin has grants, and this call does not lead to one';
    throw new NoaError('INVALID_ARGUMENT', rule);
  }
  const { plugin } = target;
  if (typeof scope !== 'string') {
    for (const operation of scope.operations) {
      for (const resourceName of scope.resources) {
        const { capability } = scope;
        const { allowed, rule } = advice.explain({
          plugin,
          capability,
          operation,
          resource: resourceName,
        });
        if (!allowed) throw denied(plugin, `${capability}.${operation} on ${resourceName}`, rule);
      }
    }
    return scope;
  }
  const colon = scope.indexOf(':');
  const capability = scope.slice(0, colon);
  const wanted = scope.slice(colon + 1);
  const gives = (right: Right): boolean =>
    right.capability === capability && right.resources.some((pattern) => covers(pattern, wanted));
  const operations = new Set(
    serving(plugin)
      .rights.filter(gives)
      .flatMap((right) => right.operations),
  );
  if (operations.size === 0) throw denied(plugin, `${capability} on ${wanted}`, 'not granted');
  return { capability, operations: [...operations], resources: [wanted] };
}

function denied(plugin: string, what: string, rule: string): NoaError {
  const text = `plugin ${plugin} has no grant for ${what.slice(0, 300)} (${rule}); an administrator can change that: noa grant list ${plugin}`;
  return new NoaError('CAPABILITY_DENIED', text);
}
