/** The port to the models that a process of this host can ask. */
export interface ModelView {
  /** Of an upstream, `group/model`. */
  readonly id: string;
  readonly version: string;
  readonly task: 'embedding' | 'generation' | 'classification' | 'rerank' | 'tensor';
  /** In the process that answers. */
  readonly state: 'available' | 'loading' | 'ready' | 'failed';
  /** `local`, or the group of an upstream. */
  readonly backend: string;
  readonly description?: string;
  readonly dimensions?: number;
  /** Of one text. */
  readonly maxTokens?: number;
  readonly licence?: string;
  readonly device?: string;
  /** Memory that it takes when it is loaded. */
  readonly bytes?: number;
  /** Why it is `failed`. */
  readonly reason?: string;
}

export interface Models {
  list(): Promise<readonly ModelView[]>;
  /** Before its first use, or after a failure. Rejects with NOT_FOUND, or why it cannot be. */
  load(model: string, version: string | undefined, signal: AbortSignal): Promise<ModelView>;
  /** Gives its memory back. Rejects with CONFLICT while it is at work. */
  unload(model: string, version: string | undefined): Promise<ModelView>;
}
