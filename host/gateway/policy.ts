/**
 * Who may do what, when and from where, as rules of the configuration, beside what scopes allow. Invariant:
 * a deny rule that applies refuses, whatever else allows; and where a fact that a condition asks for is
 * not known, deny rules apply and allow rules do not.
 */
import { BlockList, isIPv6 } from 'node:net';
import { covers, NoaError } from '@noa/sdk/host';
import type { Principal } from '../kernel/chain.ts';
import type { Arrival } from './arrival.ts';
import type { Callers, PolicyRule, PolicySettings } from './settings.ts';
import { isWithin } from './times.ts';

/** PERMISSION_DENIED, with the rule that refused. */
export class PolicyError extends NoaError {
  readonly rule: string;

  constructor(rule: string, text: string) {
    super('PERMISSION_DENIED', text, { details: { policy: rule } });
    this.rule = rule;
  }
}

/** What is named when no rule allowed a call. */
const DEFAULT = 'default';
/** Operations remembered for each principal. */
const MAX_REMEMBERED = 256;
/** Addresses whose place in the networks of a rule is remembered. */
const MAX_ADDRESSES = 1024;

interface Compiled {
  readonly rule: PolicyRule;
  /** Undefined when it has no conditions. */
  readonly holds: ((arrival: Arrival, now: number) => boolean) | undefined;
}

/** The rules of a principal at an operation: what is left are conditions. */
interface Verdict {
  readonly deny: readonly Compiled[];
  /** Empty when none is needed. */
  readonly allow: readonly Compiled[];
  readonly needsAllow: boolean;
}

export class Policy {
  readonly #rules: readonly Compiled[];
  readonly #default: 'allow' | 'deny';
  readonly #now: () => number;
  readonly #verdicts = new WeakMap<Principal, Map<string, Verdict>>();

  /** Of rules that the configuration has judged. `now` in milliseconds since the epoch. */
  constructor({ policies = [], default_policy }: PolicySettings, now: () => number) {
    this.#rules = policies.map((rule) => ({ rule, holds: compile(rule) }));
    this.#default = default_policy;
    this.#now = now;
  }

  /** Whether there is anything to ask. */
  get isEnforced(): boolean {
    return this.#rules.length > 0 || this.#default === 'deny';
  }

  /** Names of the rules that allow what `check` lets through. */
  allowing(arrival: Arrival, principal: Principal, operation: string): string[] {
    const now = this.#now();
    return this.#verdict(principal, operation)
      .allow.filter(({ holds }) => holds === undefined || holds(arrival, now))
      .map(({ rule }) => rule.name);
  }

  /** Throws PolicyError. */
  check(arrival: Arrival, principal: Principal, operation: string): void {
    if (!this.isEnforced) return;
    const { deny, allow, needsAllow } = this.#verdict(principal, operation);
    if (deny.length === 0 && !needsAllow) return;
    const now = this.#now();
    const applies = ({ holds }: Compiled) => holds === undefined || holds(arrival, now);
    const refusing = deny.find(applies);
    const { subject } = principal;
    if (refusing !== undefined) {
      const { name } = refusing.rule;
      const text = `the policy ${name} denies ${operation} to ${subject}: ask an administrator`;
      throw new PolicyError(name, text);
    }
    if (!needsAllow || allow.some(applies)) return;
    const text = `no policy allows ${operation} to ${subject}: ask an administrator`;
    throw new PolicyError(DEFAULT, text);
  }

  #verdict(principal: Principal, operation: string): Verdict {
    const known = this.#verdicts.get(principal) ?? new Map<string, Verdict>();
    let verdict = known.get(operation);
    if (verdict === undefined) {
      verdict = this.#judge(principal, operation);
      if (known.size >= MAX_REMEMBERED) known.clear();
      this.#verdicts.set(principal, known.set(operation, verdict));
    }
    return verdict;
  }

  #judge(principal: Principal, operation: string): Verdict {
    const speaking = this.#rules.filter(({ rule }) => isAbout(rule, principal, operation));
    return {
      deny: speaking.filter(({ rule }) => rule.effect === 'deny'),
      allow: speaking.filter(({ rule }) => rule.effect === 'allow'),
      // The operator's way back in.
      needsAllow: this.#default === 'deny' && principal.subject !== 'bootstrap',
    };
  }
}

function isAbout(rule: PolicyRule, principal: Principal, operation: string): boolean {
  const { operations, subjects, roles, scopes, not } = rule;
  if (operations !== undefined && !operations.some((pattern) => covers(pattern, operation))) {
    return false;
  }
  const isForAll = subjects === undefined && roles === undefined && scopes === undefined;
  return (isForAll || isAmong(rule, principal)) && !(not !== undefined && isAmong(not, principal));
}

function isAmong({ subjects = [], roles = [], scopes = [] }: Callers, principal: Principal) {
  return (
    subjects.some((pattern) => covers(pattern, principal.subject)) ||
    roles.some((role) => principal.roles?.includes(role)) ||
    scopes.some((scope) => principal.scopes.includes(scope))
  );
}

function compile({ when, effect }: PolicyRule): Compiled['holds'] {
  if (when === undefined) return undefined;
  const { transports, client_certificate: certificate } = when;
  const inside = when.addresses && networks(when.addresses);
  const outside = when.not_addresses && networks(when.not_addresses);
  const isTime = isWithin(when);
  return ({ transport, remoteAddress, clientCertificate = false }, now) => {
    if (transports !== undefined && !transports.includes(transport)) return false;
    if (certificate !== undefined && certificate !== clientCertificate) return false;
    if (inside !== undefined || outside !== undefined) {
      if (remoteAddress === undefined) return effect === 'deny' && isTime(now);
      if (inside?.(remoteAddress) === false || outside?.(remoteAddress) === true) return false;
    }
    return isTime(now);
  };
}

/** Whether an address is in one of these networks; an IPv4 address also when it is written as IPv6. */
function networks(list: readonly string[]): (address: string) => boolean {
  const blocks = new BlockList();
  for (const network of list) {
    const [address = '', bits] = network.split('/');
    const family = isIPv6(address) ? 'ipv6' : 'ipv4';
    if (bits === undefined) blocks.addAddress(address, family);
    else blocks.addSubnet(address, Number(bits), family);
  }
  const judge = (address: string): boolean => {
    const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
    const plain = mapped ?? address.split('%', 1)[0] ?? ''; // fe80::1%eth0
    return blocks.check(plain, isIPv6(plain) ? 'ipv6' : 'ipv4');
  };
  // A connection asks with each of its requests, and the list makes an object for each check.
  const judged = new Map<string, boolean>();
  return (address) => {
    let isInside = judged.get(address);
    if (isInside === undefined) {
      isInside = judge(address);
      if (judged.size >= MAX_ADDRESSES) judged.clear();
      judged.set(address, isInside);
    }
    return isInside;
  };
}
