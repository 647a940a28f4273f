/**
 * Collections and aliases in Qdrant, shared by all hosts that name it. A collection of a space is
 * `noa.<space>.<name>` there, and so is an alias; neither part may have a dot, so no two meet.
 */
import { NoaError } from '@noa/sdk/host';
import type { Schemas } from '@qdrant/js-client-rest';
import {
  assertSameForm,
  type CollectionView,
  type Distance,
  type Form,
  noCollection,
} from '../store.ts';
import type { QdrantConnection } from './connection.ts';
import { INDEXES } from './points.ts';

/** Of one space. */
const MAX_COLLECTIONS = 256;
/** A form is asked for again after this: another host may have moved an alias. */
const FORM_MS = 1000;
const MAX_FORMS = 1000;
/** Collections that are asked about at once. */
const ASKED = 8;

const DISTANCES = { cosine: 'Cosine', dot: 'Dot', euclidean: 'Euclid' } as const;

export class QdrantCollections {
  readonly #server: QdrantConnection;
  readonly #forms = new Map<string, { readonly form: Form; readonly until: number }>();

  constructor(server: QdrantConnection) {
    this.#server = server;
  }

  async list(space: string): Promise<CollectionView[]> {
    const { collections, aliases } = await this.#names(space);
    return this.#views(space, collections, aliases);
  }

  async describe(space: string, name: string): Promise<CollectionView> {
    const { collections, aliases } = await this.#names(space);
    const target = collections.includes(name) ? name : aliases.get(name);
    const [view] = await this.#views(space, target === undefined ? [] : [target], aliases);
    if (view === undefined) throw noCollection(name, [...collections, ...aliases.keys()]);
    return view;
  }

  async create(space: string, name: string, form: Form): Promise<boolean> {
    const { collections, aliases } = await this.#names(space);
    if (aliases.has(name)) throw taken(name, 'an alias');
    const full = nameOf(space, name);
    const isNew = !collections.includes(name) && (await this.#make(full, collections, form));
    if (!isNew) assertSameForm(name, await this.#readForm(full), form);
    // Each time: whoever made it may have been killed before this.
    for (const [field_name, field_schema] of Object.entries(INDEXES)) {
      await this.#server.ask((api, init) =>
        api.createFieldIndex({ collection_name: full, wait: true, field_name, field_schema }, init),
      );
    }
    return isNew;
  }

  /** False when another host was faster. */
  async #make(full: string, there: readonly string[], form: Form): Promise<boolean> {
    if (there.length >= MAX_COLLECTIONS) {
      const text = `there are ${MAX_COLLECTIONS} collections, which is all there may be: delete one`;
      throw new NoaError('RESOURCE_EXHAUSTED', text);
    }
    const dense = Object.entries(form.vectors).map(([name, { dimensions, distance }]) => [
      name,
      { size: dimensions, distance: DISTANCES[distance] },
    ]);
    const vectors = Object.fromEntries(dense) as { [name: string]: Schemas['VectorParams'] };
    const sparse_vectors = Object.fromEntries(form.sparse.map((name) => [name, {}]));
    try {
      return await this.#server.ask((api, init) =>
        api.createCollection({ collection_name: full, vectors, sparse_vectors }, init),
      );
    } catch (error) {
      if (!isCode(error, 'CONFLICT')) throw error;
      return false;
    }
  }

  async drop(space: string, name: string): Promise<boolean> {
    // A name that is an alias must not reach Qdrant, which may take it for its collection.
    const { collections } = await this.#names(space);
    if (!collections.includes(name)) return false;
    await this.#erase(nameOf(space, name));
    return true;
  }

  async #erase(full: string): Promise<void> {
    this.#forms.clear();
    await this.#server
      .ask((api, init) => api.deleteCollection({ collection_name: full }, init))
      .catch(unless('NOT_FOUND'));
  }

  async alias(space: string, alias: string, name: string): Promise<void> {
    const { collections, aliases } = await this.#names(space);
    if (!collections.includes(name)) throw noCollection(name, collections);
    if (collections.includes(alias)) throw taken(alias, 'a collection');
    if (aliases.size >= MAX_COLLECTIONS && !aliases.has(alias)) {
      throw new NoaError('RESOURCE_EXHAUSTED', `there are ${MAX_COLLECTIONS} aliases: remove one`);
    }
    const alias_name = nameOf(space, alias);
    const create = { create_alias: { alias_name, collection_name: nameOf(space, name) } };
    // Both at once for whoever reads.
    const actions = aliases.has(alias) ? [{ delete_alias: { alias_name } }, create] : [create];
    await this.#server.ask((api, init) => api.updateAliases({ actions }, init));
    this.#forms.delete(alias_name);
  }

  async unalias(space: string, alias: string): Promise<boolean> {
    const { aliases } = await this.#names(space);
    if (!aliases.has(alias)) return false;
    const alias_name = nameOf(space, alias);
    const actions = [{ delete_alias: { alias_name } }];
    await this.#server.ask((api, init) => api.updateAliases({ actions }, init));
    this.#forms.delete(alias_name);
    return true;
  }

  async dropSpace(space: string): Promise<void> {
    const { collections } = await this.#names(space);
    for (const name of collections) await this.#erase(nameOf(space, name));
  }

  /** Runs `work` with the form of a collection; once more with the form of now, if it was refused by an older one. */
  async use<Value>(
    space: string,
    name: string,
    work: (full: string, form: Form) => Promise<Value>,
  ): Promise<Value> {
    const full = nameOf(space, name);
    const kept = this.#forms.get(full);
    if (kept !== undefined && kept.until > Date.now()) {
      try {
        return await work(full, kept.form);
      } catch (error) {
        if (!isCode(error, 'NOT_FOUND') && !isCode(error, 'INVALID_ARGUMENT')) throw error;
      }
    }
    try {
      return await work(full, await this.#readForm(full));
    } catch (error) {
      if (!isCode(error, 'NOT_FOUND')) throw error;
      const { collections, aliases } = await this.#names(space);
      throw noCollection(name, [...collections, ...aliases.keys()]);
    }
  }

  async #readForm(full: string): Promise<Form> {
    const { config } = await this.#server.ask((api, init) =>
      api.getCollection({ collection_name: full }, init),
    );
    const form = formOf(config.params);
    if (this.#forms.size >= MAX_FORMS) this.#forms.clear();
    this.#forms.set(full, { form, until: Date.now() + FORM_MS });
    return form;
  }

  async #names(space: string) {
    const prefix = nameOf(space, '');
    const own = (full: string): boolean => full.startsWith(prefix);
    const short = (full: string): string => full.slice(prefix.length);
    const [{ collections }, { aliases }] = await Promise.all([
      this.#server.ask((api, init) => api.getCollections({}, init)),
      this.#server.ask((api, init) => api.getCollectionsAliases({}, init)),
    ]);
    const named = aliases.filter(({ alias_name }) => own(alias_name));
    return {
      collections: collections
        .map(({ name }) => name)
        .filter(own)
        .map(short)
        .toSorted(),
      aliases: new Map(
        named.map((each) => [short(each.alias_name), short(each.collection_name)] as const),
      ),
    };
  }

  async #views(
    space: string,
    names: readonly string[],
    aliases: ReadonlyMap<string, string>,
  ): Promise<CollectionView[]> {
    const view = async (name: string): Promise<CollectionView> => {
      const collection_name = nameOf(space, name);
      const [form, { count }] = await Promise.all([
        this.#readForm(collection_name),
        this.#server.ask((api, init) => api.countPoints({ collection_name, exact: true }, init)),
      ]);
      const own = [...aliases].filter(([, target]) => target === name).map(([alias]) => alias);
      return { collection: name, ...form, points: count, aliases: own };
    };
    const views: (CollectionView | undefined)[] = [];
    for (let at = 0; at < names.length; at += ASKED) {
      const some = names.slice(at, at + ASKED);
      // One that was deleted meanwhile is none.
      views.push(...(await Promise.all(some.map((name) => view(name).catch(unless('NOT_FOUND'))))));
    }
    return views.filter((each) => each !== undefined);
  }
}

function nameOf(space: string, name: string): string {
  return `noa.${space}.${name}`;
}

function formOf({ vectors = {}, sparse_vectors }: Schemas['CollectionParams']): Form {
  const dense = Object.entries(vectors).map(([name, params]: [string, unknown]) => {
    const { size, distance } = params as Schemas['VectorParams'];
    const found = Object.entries(DISTANCES).find(([, theirs]) => theirs === distance);
    if (found === undefined)
      throw new TypeError('a collection in Qdrant was made by something else');
    return [name, { dimensions: size, distance: found[0] as Distance }] as const;
  });
  return { vectors: Object.fromEntries(dense), sparse: Object.keys(sparse_vectors ?? {}) };
}

function taken(name: string, what: string): NoaError {
  return new NoaError('CONFLICT', `${name} is the name of ${what}: take another`);
}

function isCode(error: unknown, code: NoaError['code']): boolean {
  return error instanceof NoaError && error.code === code;
}

/** For `catch`: an error of this code is an answer too. */
function unless(code: NoaError['code']): (error: unknown) => undefined {
  return (error) => {
    if (!isCode(error, code)) throw error;
  };
}
