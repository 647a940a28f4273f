/**
 * A plugin version while it runs in this host: its runtime, its rights as a renewed token, the compiled
 * schemas of its exports and the gate before them. Made once for each generation, replaced as a whole.
 */
import {
  type CompiledSchema,
  compileSchema,
  type ExportSpec,
  type Limits,
  type Manifest,
} from '@noa/sdk/host';
import { Gate } from './gate.ts';
import { type Right, within } from './grants.ts';
import type { Runtime } from './loader.ts';
import type { Audience, Budget, Claims, Token, TokenService } from './tokens.ts';

/** Calls that may wait for each one that may run. */
const QUEUE_FACTOR = 32;
/** Child tokens kept for reuse while their parent's plugin keeps calling. */
const MAX_CHILDREN = 256;

export interface ServedExport {
  readonly spec: ExportSpec;
  readonly timeoutMs: number;
  readonly checkInput: CompiledSchema | undefined;
  readonly checkOutput: CompiledSchema | undefined;
}

export interface ServingOptions {
  readonly manifest: Manifest;
  readonly limits: Limits;
  readonly digest: string;
  /** Version of the configuration that it was started with. */
  readonly configuration: number;
  readonly audience: Audience;
  readonly runtime: Runtime;
  readonly rights: readonly Right[];
  readonly tokens: TokenService;
  readonly now: () => number;
}

export class Serving {
  readonly manifest: Manifest;
  readonly limits: Limits;
  readonly digest: string;
  readonly configuration: number;
  readonly audience: Audience;
  readonly runtime: Runtime;
  readonly gate: Gate;
  readonly exports: ReadonlyMap<string, ServedExport>;
  readonly #tokens: TokenService;
  readonly #now: () => number;
  #rights: readonly Right[];
  #token: Promise<Token> | undefined;
  #renewAt = 0;
  readonly #children = new Map<string, Promise<Token>>();
  /** Tokens of calls that run and have one of their own. */
  readonly #perCall = new Set<string>();

  constructor(options: ServingOptions) {
    const { manifest, limits } = options;
    this.manifest = manifest;
    this.limits = limits;
    this.digest = options.digest;
    this.configuration = options.configuration;
    this.audience = options.audience;
    this.runtime = options.runtime;
    this.#tokens = options.tokens;
    this.#now = options.now;
    this.#rights = options.rights;
    this.gate = new Gate(limits.concurrency, limits.concurrency * QUEUE_FACTOR, options.now);
    this.exports = new Map(
      Object.entries(manifest.exports).map(([name, spec]) => [
        name,
        {
          spec,
          timeoutMs: Math.min(spec.timeoutMs ?? limits.timeoutMs, limits.timeoutMs),
          checkInput: spec.input && compileSchema(spec.input),
          checkOutput: spec.output && compileSchema(spec.output),
        },
      ]),
    );
  }

  get rights(): readonly Right[] {
    return this.#rights;
  }

  /** The present token; a new one from two thirds of its life on (spec section 2.4). */
  token(): Promise<Token> {
    if (this.#token === undefined || this.#now() >= this.#renewAt) {
      const minted = this.#tokens.mint(this.audience, this.#rights);
      this.#token = minted;
      this.#renewAt = this.#now() + this.#tokens.lifeSeconds * 1000 * (2 / 3);
      this.#children.clear();
      minted.catch(() => this.#forget(minted));
    }
    return this.#token;
  }

  #forget(token: Promise<Token>): void {
    if (this.#token === token) this.#token = undefined;
  }

  /** A token of what both have for one call of another plugin; `endToken` when the call has ended. */
  async tokenForCall(parent: Token, budget: Budget | undefined): Promise<Token> {
    const rights = this.#rights;
    const token = await this.#tokens.attenuate(parent.claims, this.audience, rights, budget);
    this.#perCall.add(token.claims.id);
    // What was taken away while it was made must not live on in it.
    if (rights !== this.#rights) this.endToken(token);
    return token;
  }

  endToken(token: Token): void {
    this.#perCall.delete(token.claims.id);
    this.#tokens.revoke(token.claims.id);
  }

  /** The token of the calls that another plugin makes into this one: what both have. */
  async childToken(parent: Token): Promise<Token> {
    const known = this.#children.get(parent.claims.id);
    if (known !== undefined && this.#isFresh((await known).claims, parent.claims)) return known;
    const minted = this.#tokens.attenuate(parent.claims, this.audience, this.#rights);
    if (this.#children.size >= MAX_CHILDREN) this.#children.clear();
    this.#children.set(parent.claims.id, minted);
    minted.catch(() => this.#children.delete(parent.claims.id));
    return minted;
  }

  /** Whether a child has as much time as another would have, or a third of a life. */
  #isFresh({ expiresAt }: Claims, parent: Claims): boolean {
    const left = expiresAt - this.#now() / 1000;
    return expiresAt >= parent.expiresAt || left > this.#tokens.lifeSeconds / 3;
  }

  /** Takes new rights. Tokens that carry more than these are void from now on. */
  async setRights(rights: readonly Right[]): Promise<void> {
    if (JSON.stringify(rights) === JSON.stringify(this.#rights)) return;
    const old = this.#token;
    const narrowed = !within(this.#rights, rights);
    this.#rights = rights;
    this.#token = undefined;
    this.#children.clear();
    if (!narrowed) return;
    for (const id of this.#perCall) this.#tokens.revoke(id);
    this.#perCall.clear();
    if (old !== undefined) this.#tokens.revoke((await old).claims.id);
  }

  /** Voids its tokens, children included. */
  async revokeTokens(): Promise<void> {
    const token = this.#token;
    this.#token = undefined;
    this.#children.clear();
    if (token !== undefined) this.#tokens.revoke((await token).claims.id);
  }
}
