/** Documents in collections: kept, cut, embedded, searched and answered from. */
import { definePlugin } from '@noa/sdk';
import { answer } from './answer.ts';
import { collection, collections, createCollection, deleteCollection } from './collections.ts';
import { deleteDocument, document, documents, documentText } from './documents.ts';
import { retrieve } from './grpc.ts';
import { addDocument } from './ingest.ts';
import type { Plugin } from './noa.gen.ts';
import { cancelReindex, reindex } from './reindex.ts';
import { resume } from './resume.ts';
import { search } from './search.ts';

export default definePlugin<Plugin>({
  createCollection,
  collections,
  collection,
  deleteCollection,
  reindex,
  cancelReindex,
  addDocument,
  documents,
  document,
  documentText,
  deleteDocument,
  search,
  answer,
  retrieve,
  resume,
});
