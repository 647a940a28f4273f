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
  NoaError,
} from '@noa/sdk/host';
import { satisfies } from 'semver';
import type { CapabilityEntry } from './broker.ts';
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

  constructor(options: JudgeOptions) {
    this.#options = options;
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
    const range = given.noa;
    if (range !== undefined && !satisfies(ABI_VERSION, range)) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `noa: the plugin needs ABI ${range}, this host speaks ${ABI_VERSION}`,
      );
    }
    const requests = (given.capabilities ?? []).map((request, index) => {
      const { operations, resources } = this.reach(
        request.capability,
        request.operations,
        request.resources,
        `/capabilities/${index}`,
      );
      return { ...request, operations: [...operations], resources: [...resources] };
    });
    for (const request of subscriptionRequests(given, requests)) {
      const { capability, operations, resources } = request;
      this.reach(capability, operations, resources, '/contributes/subscriptions');
      requests.push(request);
    }
    const manifest = { ...given, ...(requests.length > 0 ? { capabilities: requests } : {}) };
    await this.#options.loader.inspect(manifest, effectiveLimits(manifest), wasm);
    const installedAt = new Date(this.#options.now()).toISOString();
    const { name: plugin, version } = manifest;
    return { version: { plugin, version, digest, manifest, installedAt }, requests };
  }

  /** Whether an operation is open to every plugin. */
  isOpen(capability: string, operation: string): boolean {
    const entry = this.#options.capabilities.find(
      ({ capability: { name } }) => name === capability,
    );
    return (
      entry?.capability.always !== undefined &&
      Object.hasOwn(entry.capability.operations, operation)
    );
  }

  /** Operations and resources of a request or grant in canonical form. Throws INVALID_ARGUMENT. */
  reach(
    capability: string,
    operations: readonly string[],
    resources: readonly string[],
    path = '',
  ): Reach {
    const found = this.#named(capability, operations, path);
    if (resources.length === 0) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `${path}/resources: name at least one (${found.resource})`,
      );
    }
    const canonical = resources.map((pattern) => found.normalizeResource(pattern));
    return { operations: [...new Set(operations)], resources: [...new Set(canonical)] };
  }

  /** Throws INVALID_ARGUMENT unless the capability needs grants and has this operation. */
  operation(capability: string, operation: string): void {
    this.#named(capability, [operation], '');
  }

  #named(capability: string, operations: readonly string[], path: string): Capability {
    const entries = this.#options.capabilities.map((entry) => entry.capability);
    const found = entries.find(({ name }) => name === capability);
    if (found === undefined || found.always !== undefined) {
      const known = entries.filter(({ always }) => always === undefined).map(({ name }) => name);
      const text = found
        ? 'is open to every plugin and needs no grant'
        : 'is not a capability of this host';
      throw new NoaError(
        'INVALID_ARGUMENT',
        `${path}/capability: ${JSON.stringify(capability)} ${text}; it has ${known.join(', ')}`,
      );
    }
    const unknown = operations.find((operation) => !Object.hasOwn(found.operations, operation));
    if (unknown !== undefined || operations.length === 0) {
      const has = Object.keys(found.operations).join(', ');
      const text =
        unknown === undefined ? 'is empty' : `has no operation ${JSON.stringify(unknown)}`;
      throw new NoaError(
        'INVALID_ARGUMENT',
        `${path}/operations: ${capability} ${text}; it has ${has}`,
      );
    }
    return found;
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
