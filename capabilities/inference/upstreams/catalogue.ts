/**
 * Which models a group has, and which of its members have each: from the configuration where it says so,
 * else as the members tell (`GET /models`), asked when first needed. Invariant: a member is asked once at a
 * time; what it told is used while a newer list is on its way, or cannot be had.
 */
import type { Json, NoaError } from '@noa/sdk/host';
import { Exchange } from './exchange.ts';
import { Failed, unusable } from './failure.ts';
import type { Member } from './member.ts';
import type { GroupSettings, ModelSettings } from './settings.ts';

const FRESH_MS = 300_000;
/** After a list could not be had. */
const AGAIN_MS = 5000;
const ASK_MS = 5000;
const MAX_MODELS = 1000;
const MAX_ID_LENGTH = 128;

export interface Entry extends ModelSettings {
  readonly task: NonNullable<ModelSettings['task']>;
  /** Who has it, and how they name it. */
  readonly members: ReadonlyMap<Member, string>;
}

interface Listing {
  models: ReadonlyMap<string, string> | undefined;
  until: number;
  error: NoaError | undefined;
  asking: Promise<void> | undefined;
}

export class Catalogue {
  readonly #group: GroupSettings;
  readonly #members: readonly Member[];
  readonly #listed: ReadonlyMap<string, ModelSettings> | undefined;
  /** What the configuration says of members. */
  readonly #fixed = new Map<Member, ReadonlyMap<string, string>>();
  readonly #listings = new Map<Member, Listing>();
  readonly #closing = new AbortController();

  constructor(group: GroupSettings, members: readonly Member[]) {
    this.#group = group;
    this.#members = members;
    this.#listed = group.models && new Map(group.models.map((model) => [model.id, model]));
    const all = group.models && new Map(group.models.map(({ id }) => [id, id]));
    for (const member of members) {
      const { models: own } = member.settings;
      const fixed = own === undefined ? all : new Map(Object.entries(own));
      if (fixed !== undefined) this.#fixed.set(member, fixed);
    }
  }

  /** All models; those of members that cannot be asked are missing. */
  async entries(): Promise<Entry[]> {
    const lists = await this.#lists();
    const ids = new Set([...lists.values()].flatMap((list) => [...list.keys()]));
    return [...ids].map((id) => this.#entry(id, lists)).filter((entry) => entry !== undefined);
  }

  /** Undefined when no member has it. Rejects with UNAVAILABLE when one that could not be asked may. */
  async find(id: string): Promise<Entry | undefined> {
    const entry = this.#entry(id, await this.#lists());
    if (entry !== undefined) return entry;
    for (const { error, models } of this.#listings.values()) {
      if (error !== undefined && models === undefined) throw error;
    }
    return undefined;
  }

  close(): void {
    this.#closing.abort();
  }

  async #lists(): Promise<Map<Member, ReadonlyMap<string, string>>> {
    const lists = this.#members.map(
      async (member) => [member, await this.#modelsOf(member)] as const,
    );
    return new Map(await Promise.all(lists));
  }

  #entry(id: string, lists: Map<Member, ReadonlyMap<string, string>>): Entry | undefined {
    const members = new Map<Member, string>();
    for (const [member, list] of lists) {
      const name = list.get(id);
      if (name !== undefined) members.set(member, name);
    }
    const about: ModelSettings = this.#listed?.get(id) ?? { id };
    const task = about.task ?? taskOf(id);
    const isServed = members.size > 0 && (task !== 'rerank' || this.#group.rerank);
    return isServed ? { ...about, task, members } : undefined;
  }

  async #modelsOf(member: Member): Promise<ReadonlyMap<string, string>> {
    const fixed = this.#fixed.get(member);
    if (fixed !== undefined) return fixed;
    const listing: Listing = this.#listings.get(member) ?? {
      models: undefined,
      until: 0,
      error: undefined,
      asking: undefined,
    };
    this.#listings.set(member, listing);
    if (Date.now() >= listing.until) {
      listing.asking ??= this.#ask(member, listing);
      if (listing.models === undefined) await listing.asking;
    }
    return listing.models ?? new Map();
  }

  /** Never rejects: what went wrong is kept with the listing. */
  async #ask(member: Member, listing: Listing): Promise<void> {
    const timeout = AbortSignal.timeout(ASK_MS);
    const signal = AbortSignal.any([timeout, this.#closing.signal]);
    try {
      const question = { method: 'GET', path: '/models', accept: 'application/json' } as const;
      const exchange = await Exchange.begin(member.line, question, signal);
      listing.models = this.#read(await exchange.json());
      listing.error = undefined;
      listing.until = Date.now() + FRESH_MS;
    } catch (error) {
      const { name } = this.#group;
      const failed =
        error instanceof Failed ? error : unusable(name, 'did not tell its models', 'rest', error);
      listing.error = failed.error;
      listing.until = Date.now() + AGAIN_MS;
    } finally {
      listing.asking = undefined;
    }
  }

  #read(answer: Json): ReadonlyMap<string, string> {
    const { name } = this.#group;
    const list = isObject(answer) ? answer['data'] : undefined;
    if (!Array.isArray(list)) throw unusable(name, 'told its models in no form that is known');
    const room = MAX_ID_LENGTH - name.length - 1;
    const ids = list
      .map((each) => (isObject(each) ? each['id'] : undefined))
      .filter((id) => typeof id === 'string')
      .filter((id) => id.length <= room && /^[A-Za-z0-9._:/@-]+$/.test(id));
    return new Map(ids.slice(0, MAX_MODELS).map((id) => [id, id]));
  }
}

/** No list of models tells what they are for; their names mostly do. */
function taskOf(id: string): Entry['task'] {
  if (/rerank/i.test(id)) return 'rerank';
  return /embed|(^|[/_-])(bge|e5|gte|minilm)([_-]|$)/i.test(id) ? 'embedding' : 'generation';
}

export function isObject(value: Json | undefined): value is { readonly [name: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
