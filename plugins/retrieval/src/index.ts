/** Documents in collections: kept, cut, embedded, searched and answered from. */
import { definePlugin } from '@noa/sdk';
import { answer } from './answer.ts';
import { collection, collections, createCollection, deleteCollection } from './collections.ts';
import { deleteDocument, document, documents } from './documents.ts';
import { retrieve } from './grpc.ts';
import { addDocument, resume } from './ingest.ts';
import type { Plugin } from './noa.gen.ts';
import { search } from './search.ts';

export default definePlugin<Plugin>({
  createCollection,
  collections,
  collection,
  deleteCollection,
  addDocument,
  documents,
  document,
  deleteDocument,
  search,
  answer,
  retrieve,
  resume,
});
