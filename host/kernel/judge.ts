/**
 * Judges what is offered to the host before anything of it is kept: that a bundle is well formed, that
 * what it requests exists in this host, and that its module may run. Nothing here changes state.
 */
import { createHash } from 'node:crypto';
import {
  ABI_VERSION,
  type Capability,
  type CapabilityRequest,
  covers,
  effectiveLimits,
  type Manifest,
  nearest,
  NoaError,
} from '@noa/sdk/host';
import { satisfies } from 'semver';
import type { CapabilityEntry } from './broker.ts';
import { hookRequests } from './hooks.ts';
import type { Loader } from './loader.ts';
import type { Bundle, PluginVersion } from './store.ts';
import { subscriptionRequests } from './subscriptions.ts';

export interface JudgeOptions {
  readonly capabilities: readonly CapabilityEntry[];
  readonly loader: Loader;
  readonly readBundle: (bytes: Uint8Array) => Promise<Bundle>;
  readonly now: () => number;
}

interface Reach {
  readonly operations: readonly string[];
  readonly resources: readonly string[];
}

export class Judge {
  readonly #options: JudgeOptions;
  readonly #capabilities: readonly Capability[];

  constructor(options: JudgeOptions) {
    this.#options = options;
    this.#capabilities = options.capabilities.map(({ capability }) => capability);
  }

  /**
   * The version that a bundle holds, with its requests in canonical form. Throws INVALID_ARGUMENT, also
   * when `wanted` is given and is not the SHA-256 (hex) of the bytes.
   */
  async bundle(
    bytes: Uint8Array,
    wanted?: string,
  ): Promise<{ version: PluginVersion; requests: CapabilityRequest[] }> {
    const digest = createHash('sha256').update(bytes).digest('hex');
    if (wanted !== undefined && wanted !== digest) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `digest: the bundle's is sha256:${digest}, not sha256:${wanted}; it is not the bundle that was meant`,
      );
    }
    const { manifest: given, wasm } = await this.#options.readBundle(bytes);
    const { manifest, requests } = judgeManifest(given, this.#capabilities);
    await this.#options.loader.inspect(manifest, effectiveLimits(manifest), wasm);
    const installedAt = new Date(this.#options.now()).toISOString();
    const { name: plugin, version } = manifest;
    return { version: { plugin, version, digest, manifest, installedAt }, requests };
  }

  /** Whether an operation is open to every plugin. */
  isOpen(capability: string, operation: string): boolean {
    const found = this.#capabilities.find(({ name }) => name === capability);
    return found?.always !== undefined && Object.hasOwn(found.operations, operation);
  }

  /** Operations and resources of a grant in canonical form. Throws INVALID_ARGUMENT. */
  reach(capability: string, operations: readonly string[], resources: readonly string[]): Reach {
    return reachOf(this.#capabilities, capability, operations, resources, '');
  }

  /** Throws INVALID_ARGUMENT unless the capability needs grants and has this operation. */
  operation(capability: string, operation: string): void {
    named(this.#capabilities, capability, [operation], '');
  }

  /** Throws INVALID_ARGUMENT unless the decision stays within what was asked. */
  narrower(decision: Reach, asked: Reach): void {
    const wider =
      decision.operations.find((operation) => !asked.operations.includes(operation)) ??
      decision.resources.find((item) => !asked.resources.some((pattern) => covers(pattern, item)));
    if (wider !== undefined) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `${JSON.stringify(wider)} is beyond what the plugin asked for: approve less, or add a grant`,
      );
    }
  }
}

/**
 * What a host with these capabilities takes of a manifest: the manifest and its requests, those of its
 * subscriptions and hooks among them, in canonical form. The author's tools ask it before an installation does.
 * Throws INVALID_ARGUMENT.
 */
export function judgeManifest(
  given: Manifest,
  capabilities: readonly Capability[],
): { manifest: Manifest; requests: CapabilityRequest[] } {
  const range = given.noa;
  if (range !== undefined && !satisfies(ABI_VERSION, range)) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `noa: the plugin needs ABI ${range}, this host speaks ${ABI_VERSION}`,
    );
  }
  const requests = (given.capabilities ?? []).map((request, index): CapabilityRequest => {
    const { capability, operations, resources } = request;
    const path = `/capabilities/${index}`;
    return { ...request, ...reachOf(capabilities, capability, operations, resources, path) };
  });
  for (const request of subscriptionRequests(given, requests)) {
    const { capability, operations, resources } = request;
    reachOf(capabilities, capability, operations, resources, '/contributes/subscriptions');
    requests.push(request);
  }
  for (const request of hookRequests(given, requests)) {
    const { capability, operations, resources } = request;
    reachOf(capabilities, capability, operations, resources, '/contributes/hooks');
    requests.push(request);
  }
  const manifest = { ...given, ...(requests.length > 0 ? { capabilities: requests } : {}) };
  return { manifest, requests };
}

/** Operations and resources in canonical form. Throws INVALID_ARGUMENT. */
function reachOf(
  capabilities: readonly Capability[],
  capability: string,
  operations: readonly string[],
  resources: readonly string[],
  path: string,
): { operations: string[]; resources: string[] } {
  const found = named(capabilities, capability, operations, path);
  if (resources.length === 0) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${path}/resources: name at least one (${found.resource})`,
    );
  }
  const canonical = resources.map((pattern) => found.normalizeResource(pattern));
  return { operations: [...new Set(operations)], resources: [...new Set(canonical)] };
}

/** The capability, which needs grants and has these operations. Throws INVALID_ARGUMENT. */
function named(
  capabilities: readonly Capability[],
  capability: string,
  operations: readonly string[],
  path: string,
): Capability {
  const found = capabilities.find(({ name }) => name === capability);
  if (found === undefined || found.always !== undefined) {
    const known = capabilities.filter(({ always }) => always === undefined).map(({ name }) => name);
    const text = found
      ? 'is open to every plugin and needs no grant'
      : 'is not a capability of this host';
    const near = found ? undefined : nearest(capability, known);
    const fix = near === undefined ? `it has ${known.join(', ')}` : `did you mean ${near}?`;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${path}/capability: ${JSON.stringify(capability)} ${text}; ${fix}`,
    );
  }
  const unknown = operations.find((operation) => !Object.hasOwn(found.operations, operation));
  if (unknown !== undefined || operations.length === 0) {
    const has = Object.keys(found.operations).join(', ');
    const text = unknown === undefined ? 'is empty' : `has no operation ${JSON.stringify(unknown)}`;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${path}/operations: ${capability} ${text}; it has ${has}`,
    );
  }
  return found;
}
