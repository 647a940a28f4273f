// Written by `noa plugin types` from plugin.json; changes are lost.
import type { Db, Emit, EventsPort, Inference, Json, VectorPort } from '@noa/sdk';

export interface CreateCollectionInput {
  /** Of the collection. */
  name: string;
  description?: string;
  /** Embeds the chunks; the plugin's `embedding_model` when absent. */
  model?: string;
  chunking?: {
    /** Of one chunk, by the model's tokenizer. */
    tokens?: number;
    /** Tokens that a chunk has in common with the one before. */
    overlap?: number;
  };
}

export interface CreateCollectionOutput {
  name: string;
  description: string | null;
  /** Embeds the chunks. */
  model: string;
  dimensions: number;
  chunking: {
    tokens: number;
    overlap: number;
  };
  documents: number;
  chunks: number;
  /** Of the index that is built beside the one that answers, or why the last was given up; null when there is neither. */
  reindex: null | {
    state: 'building';
    model: string;
    dimensions: number;
    chunking: {
      tokens: number;
      overlap: number;
    };
    /** That are in it already. */
    documents: number;
    /** Why it waits. */
    error?: string;
  } | {
    state: 'failed';
    error: string;
  };
  created_at: string;
}

export interface CollectionsInput {
  limit?: number;
  /** `next` of the page before. */
  cursor?: string;
}

export interface CollectionsOutput {
  collections: {
    name: string;
    description: string | null;
    /** Embeds the chunks. */
    model: string;
    dimensions: number;
    chunking: {
      tokens: number;
      overlap: number;
    };
    documents: number;
    chunks: number;
    /** Of the index that is built beside the one that answers, or why the last was given up; null when there is neither. */
    reindex: null | {
      state: 'building';
      model: string;
      dimensions: number;
      chunking: {
        tokens: number;
        overlap: number;
      };
      /** That are in it already. */
      documents: number;
      /** Why it waits. */
      error?: string;
    } | {
      state: 'failed';
      error: string;
    };
    created_at: string;
  }[];
  next: string | null;
}

export interface CollectionInput {
  collection: string;
}

export interface CollectionOutput {
  name: string;
  description: string | null;
  /** Embeds the chunks. */
  model: string;
  dimensions: number;
  chunking: {
    tokens: number;
    overlap: number;
  };
  documents: number;
  chunks: number;
  /** Of the index that is built beside the one that answers, or why the last was given up; null when there is neither. */
  reindex: null | {
    state: 'building';
    model: string;
    dimensions: number;
    chunking: {
      tokens: number;
      overlap: number;
    };
    /** That are in it already. */
    documents: number;
    /** Why it waits. */
    error?: string;
  } | {
    state: 'failed';
    error: string;
  };
  created_at: string;
}

export interface DeleteCollectionInput {
  collection: string;
}

export type DeleteCollectionOutput = Record<string, never>;

export interface ReindexInput {
  collection: string;
  /** Embeds the chunks from then on; the present one when absent. */
  model?: string;
  chunking?: {
    /** Of one chunk, by the model's tokenizer. */
    tokens?: number;
    /** Tokens that a chunk has in common with the one before. */
    overlap?: number;
  };
}

export interface ReindexOutput {
  name: string;
  description: string | null;
  /** Embeds the chunks. */
  model: string;
  dimensions: number;
  chunking: {
    tokens: number;
    overlap: number;
  };
  documents: number;
  chunks: number;
  /** Of the index that is built beside the one that answers, or why the last was given up; null when there is neither. */
  reindex: null | {
    state: 'building';
    model: string;
    dimensions: number;
    chunking: {
      tokens: number;
      overlap: number;
    };
    /** That are in it already. */
    documents: number;
    /** Why it waits. */
    error?: string;
  } | {
    state: 'failed';
    error: string;
  };
  created_at: string;
}

export interface CancelReindexInput {
  collection: string;
}

export type CancelReindexOutput = Record<string, never>;

export interface AddDocumentInput {
  collection: string;
  /** Unique in its collection. */
  id?: string;
  text?: string;
  markdown?: string;
  html?: string;
  /** The bytes of a file. */
  content?: {
    mediaType: string;
    charset?: string;
    base64: string;
  };
  title?: string;
  /** Where it is from, such as a URL or a path. */
  source?: string;
  /** For filters, and told with each hit. */
  metadata?: Record<string, Json>;
}

export interface AddDocumentOutput {
  collection: string;
  id: string;
  title: string | null;
  source: string | null;
  media_type: string;
  metadata: Record<string, unknown>;
  state: 'embedding' | 'ready' | 'failed';
  chunks: number;
  /** Chunks that can be found already. */
  embedded: number;
  error: string | null;
  created_at: string;
  updated_at: string;
}

export interface DocumentsInput {
  collection: string;
  limit?: number;
  /** `next` of the page before. */
  cursor?: string;
}

export interface DocumentsOutput {
  documents: {
    collection: string;
    id: string;
    title: string | null;
    source: string | null;
    media_type: string;
    metadata: Record<string, unknown>;
    state: 'embedding' | 'ready' | 'failed';
    chunks: number;
    /** Chunks that can be found already. */
    embedded: number;
    error: string | null;
    created_at: string;
    updated_at: string;
  }[];
  next: string | null;
}

export interface DocumentInput {
  collection: string;
  /** Unique in its collection. */
  id: string;
}

export interface DocumentOutput {
  collection: string;
  id: string;
  title: string | null;
  source: string | null;
  media_type: string;
  metadata: Record<string, unknown>;
  state: 'embedding' | 'ready' | 'failed';
  chunks: number;
  /** Chunks that can be found already. */
  embedded: number;
  error: string | null;
  created_at: string;
  updated_at: string;
}

export interface DocumentTextInput {
  collection: string;
  /** Unique in its collection. */
  id: string;
  /** `next` of the page before. */
  cursor?: string;
}

export interface DocumentTextOutput {
  text: string;
  /** Where this part begins in the whole, in UTF-16 units. */
  start: number;
  next: string | null;
}

export interface DeleteDocumentInput {
  collection: string;
  /** Unique in its collection. */
  id: string;
}

export type DeleteDocumentOutput = Record<string, never>;

export interface SearchInput {
  collection: string;
  query?: string;
  vector?: number[];
  limit?: number;
  /** By `document`, `source`, `title` and members of `metadata`: `{field: "metadata.lang", eq: "en"}`, `{and: [...]}`; the filters of the capability vector. */
  filter?: Record<string, Json>;
  /** By meaning, by words, or by both, as when it is absent. */
  mode?: 'dense' | 'sparse' | 'hybrid';
  /** true, or the id of a rerank model: the best are ranked again. */
  rerank?: boolean | string;
}

export interface SearchOutput {
  collection: string;
  mode: string;
  /** Best first. */
  hits: {
    id: string;
    /** Higher is better. */
    score: number;
    text: string;
    document: string;
    title: string | null;
    source: string | null;
    position: {
      /** In UTF-16 units of the text that was read of the document: GET /v1/documents/:id/text. */
      start: number;
      end: number;
      headings: string[];
      page?: number;
      /** Of what was sent, if that has lines; the first is 1. */
      lines?: {
        from: number;
        to: number;
      };
    };
    /** The metadata of the document. */
    payload: Record<string, unknown>;
  }[];
}

export interface AnswerInput {
  collection: string;
  question: string;
  /** Chunks that the answer is made of. */
  limit?: number;
  /** By `document`, `source`, `title` and members of `metadata`: `{field: "metadata.lang", eq: "en"}`, `{and: [...]}`; the filters of the capability vector. */
  filter?: Record<string, Json>;
  /** Writes the answer; without one it is put together from sentences of the documents. */
  model?: string;
  /** Of the generation, by OpenAI's names. */
  parameters?: Record<string, Json>;
  stream?: boolean;
}

export interface AnswerOutput {
  answer: string;
  citations: {
    /** As the answer names it: [1]. */
    n: number;
    document: string;
    title: string | null;
    source: string | null;
    position: {
      /** In UTF-16 units of the text that was read of the document: GET /v1/documents/:id/text. */
      start: number;
      end: number;
      headings: string[];
      page?: number;
      /** Of what was sent, if that has lines; the first is 1. */
      lines?: {
        from: number;
        to: number;
      };
    };
    text: string;
  }[];
  method: 'generated' | 'extractive' | 'none';
  model?: string;
  /** Tokens that were counted. */
  usage?: {
    prompt_tokens: number;
    completion_tokens?: number;
    total_tokens: number;
  };
}

export type RetrieveInput = Record<string, Json>;

export type RetrieveOutput = Record<string, unknown>;

export type ResumeInput = Record<string, never>;

export interface ResumeOutput {
  documents: number;
}

export interface Config {
  /** Of collections that name none. */
  embedding_model: string;
  /** Writes the answers of requests that name none; without it they are put together from sentences of the documents. */
  answer_model?: string;
  /** Tokens of a chunk, of collections that say nothing. */
  chunk_tokens: number;
  /** Tokens that a chunk has in common with the one before. */
  chunk_overlap: number;
}

export interface Plugin {
  exports: {
    createCollection(input: CreateCollectionInput): CreateCollectionOutput;
    collections(input: CollectionsInput): CollectionsOutput;
    collection(input: CollectionInput): CollectionOutput;
    deleteCollection(input: DeleteCollectionInput): DeleteCollectionOutput;
    reindex(input: ReindexInput): ReindexOutput;
    cancelReindex(input: CancelReindexInput): CancelReindexOutput;
    addDocument(input: AddDocumentInput): AddDocumentOutput;
    documents(input: DocumentsInput): DocumentsOutput;
    document(input: DocumentInput): DocumentOutput;
    documentText(input: DocumentTextInput): DocumentTextOutput;
    deleteDocument(input: DeleteDocumentInput): DeleteDocumentOutput;
    search(input: SearchInput): SearchOutput;
    answer(input: AnswerInput, emit: Emit): AnswerOutput;
    retrieve(input: RetrieveInput): RetrieveOutput;
    resume(input: ResumeInput): ResumeOutput;
  };
  config: Config;
  capabilities: {
    db: Pick<Db, 'query' | 'execute' | 'transaction'>;
    events: Pick<EventsPort, 'publish'>;
    inference: Pick<Inference, 'embed' | 'rerank' | 'generate' | 'stream' | 'tokenize'>;
    vector: Pick<VectorPort, 'create' | 'delete' | 'list' | 'describe' | 'alias' | 'unalias' | 'upsert' | 'search' | 'deletePoints'>;
  };
}
