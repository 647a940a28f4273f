// Written by `noa plugin types` from plugin.json; changes are lost.
import type { Cache, Db } from '@noa/sdk';

export interface CreateInput {
  text: string;
}

export interface CreateOutput {
  id: string;
  text: string;
}

export interface ReadInput {
  id: string;
}

export interface ReadOutput {
  id: string;
  text: string;
  /** How often the note was read. */
  reads: number;
}

export interface ListInput {
  /** 20 when absent. */
  limit?: number;
  /** Go on after this note. */
  after?: string;
}

export interface ListOutput {
  /** The newest first. */
  notes: {
    id: string;
    text: string;
  }[];
  /** Send it as `after` for more; absent at the end. */
  next?: string;
}

export interface Plugin {
  exports: {
    create(input: CreateInput): CreateOutput;
    read(input: ReadInput): ReadOutput;
    list(input: ListInput): ListOutput;
  };
  config: {};
  capabilities: {
    db: Pick<Db, 'query' | 'execute'>;
    cache: Pick<Cache, 'increment'>;
  };
}
