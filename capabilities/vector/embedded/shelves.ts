/**
 * All collections of a data folder: `<space>/<collection>/form.json` beside what the index keeps, and the
 * aliases of a space in `<space>/aliases.json`. Invariants: a collection is there when its form is, which is
 * written last and renamed into place; one that is deleted is renamed away first.
 */
import { randomUUID } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { assertSameForm, type CollectionView, type Form, noCollection } from '../store.ts';
import type { OpenIndex } from './point-index.ts';
import { Shelf } from './shelf.ts';

/** Of one space. */
const MAX_COLLECTIONS = 256;
/** What is deleted; no name of a space or collection begins so. */
const GONE = '.gone-';
/** An index whose last owner has not quite ended yet. */
const OPEN_MS = 10_000;
const AGAIN_MS = 100;

interface Space {
  readonly shelves: Map<string, Shelf>;
  readonly aliases: Map<string, string>;
}

export class Shelves {
  readonly #root: string;
  readonly #open: OpenIndex;
  readonly #spaces = new Map<string, Promise<Space>>();

  constructor(root: string, open: OpenIndex) {
    this.#root = root;
    this.#open = open;
    mkdirSync(root, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(root)) if (name.startsWith(GONE)) this.#erase(join(root, name));
  }

  #erase(path: string): void {
    rmSync(path, { recursive: true, force: true });
  }

  /** What a space holds, read when it is first asked for. */
  space(name: string): Promise<Space> {
    let space = this.#spaces.get(name);
    if (space === undefined) {
      space = this.#read(name);
      this.#spaces.set(name, space);
      space.catch(() => this.#spaces.delete(name)); // whoever asked hears why
    }
    return space;
  }

  async #read(name: string): Promise<Space> {
    const folder = join(this.#root, name);
    const shelves = new Map<string, Shelf>();
    for (const each of existsSync(folder) ? readdirSync(folder) : []) {
      const form = join(folder, each, 'form.json');
      if (each === 'aliases.json' || each.endsWith('.new')) continue;
      // Killed while it was made, or while it was deleted.
      if (!existsSync(form)) this.#erase(join(folder, each));
      else shelves.set(each, await this.#shelf(join(folder, each), readJson(form) as Form));
    }
    const file = join(folder, 'aliases.json');
    const known = existsSync(file) ? (readJson(file) as Record<string, string>) : {};
    const aliases = Object.entries(known).filter(([, target]) => shelves.has(target));
    return { shelves, aliases: new Map(aliases) };
  }

  async #shelf(folder: string, form: Form): Promise<Shelf> {
    const until = Date.now() + OPEN_MS;
    for (;;) {
      try {
        return new Shelf(form, this.#open(folder, form));
      } catch (error) {
        if (Date.now() > until) throw error;
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  }

  async find(space: string, name: string): Promise<Shelf> {
    const { shelves, aliases } = await this.space(space);
    const found = shelves.get(name) ?? shelves.get(aliases.get(name) ?? '');
    if (found === undefined) throw noCollection(name, [...shelves.keys(), ...aliases.keys()]);
    return found;
  }

  async views(space: string): Promise<CollectionView[]> {
    const { shelves, aliases } = await this.space(space);
    return [...shelves]
      .map(([collection, { form, size }]) => ({
        collection,
        ...form,
        points: size,
        aliases: [...aliases].filter(([, target]) => target === collection).map(([alias]) => alias),
      }))
      .toSorted((a, b) => (a.collection < b.collection ? -1 : 1));
  }

  async create(spaceName: string, name: string, form: Form): Promise<boolean> {
    const { shelves, aliases } = await this.space(spaceName);
    const there = shelves.get(name);
    if (there !== undefined) {
      assertSameForm(name, there.form, form);
      return false;
    }
    if (aliases.has(name)) throw taken(name, 'an alias');
    if (shelves.size >= MAX_COLLECTIONS) {
      const text = `there are ${MAX_COLLECTIONS} collections, which is all there may be: delete one`;
      throw new NoaError('RESOURCE_EXHAUSTED', text);
    }
    const folder = join(this.#root, spaceName, name);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const shelf = await this.#shelf(folder, form);
    writeJson(join(folder, 'form.json'), form);
    shelves.set(name, shelf);
    return true;
  }

  async drop(spaceName: string, name: string): Promise<boolean> {
    const { shelves, aliases } = await this.space(spaceName);
    const shelf = shelves.get(name);
    if (shelf === undefined) return false;
    shelves.delete(name);
    for (const [alias, target] of aliases) if (target === name) aliases.delete(alias);
    this.#keepAliases(spaceName, aliases);
    await shelf.close();
    this.#away(join(this.#root, spaceName, name));
    return true;
  }

  #away(path: string): void {
    const gone = join(this.#root, `${GONE}${randomUUID()}`);
    renameSync(path, gone);
    this.#erase(gone);
  }

  async alias(spaceName: string, alias: string, name: string): Promise<void> {
    const { shelves, aliases } = await this.space(spaceName);
    if (!shelves.has(name)) throw noCollection(name, [...shelves.keys()]);
    if (shelves.has(alias)) throw taken(alias, 'a collection');
    if (aliases.size >= MAX_COLLECTIONS && !aliases.has(alias)) {
      throw new NoaError('RESOURCE_EXHAUSTED', `there are ${MAX_COLLECTIONS} aliases: remove one`);
    }
    this.#keepAliases(spaceName, new Map([...aliases, [alias, name]]));
    aliases.set(alias, name);
  }

  async unalias(spaceName: string, alias: string): Promise<boolean> {
    const { aliases } = await this.space(spaceName);
    if (!aliases.delete(alias)) return false;
    this.#keepAliases(spaceName, aliases);
    return true;
  }

  #keepAliases(space: string, aliases: ReadonlyMap<string, string>): void {
    writeJson(join(this.#root, space, 'aliases.json'), Object.fromEntries(aliases));
  }

  async dropSpace(name: string): Promise<void> {
    const { shelves } = await this.space(name);
    this.#spaces.delete(name);
    for (const shelf of shelves.values()) await shelf.close();
    const folder = join(this.#root, name);
    if (existsSync(folder)) this.#away(folder);
  }

  /** Collections whose index is worth tending. */
  async *due(): AsyncGenerator<Shelf> {
    for (const space of this.#spaces.values()) {
      for (const shelf of (await space).shelves.values()) if (shelf.isDue) yield shelf;
    }
  }
}

function taken(name: string, what: string): NoaError {
  return new NoaError('CONFLICT', `${name} is the name of ${what}: take another`);
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'));
}

/** On disk and whole when it returns. */
function writeJson(file: string, value: unknown): void {
  const draft = `${file}.new`;
  writeFileSync(draft, JSON.stringify(value), { mode: 0o600, flush: true });
  renameSync(draft, file);
  const folder = openSync(dirname(file), 'r');
  fsyncSync(folder);
  closeSync(folder);
}
