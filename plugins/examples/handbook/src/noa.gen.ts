// Written by `noa plugin types` from plugin.json; changes are lost.
import type { Inference, VectorPort } from '@noa/sdk';

export interface AddInput {
  title: string;
  text: string;
}

export interface AddOutput {
  passages: number;
}

export interface AskInput {
  question: string;
  /** Looks in this page alone. */
  title?: string;
}

export interface AskOutput {
  /** Absent while no model is configured. */
  answer?: string;
  passages: {
    title: string;
    text: string;
    /** From -1 to 1. */
    likeness: number;
  }[];
}

export interface Config {
  /** Writes the answers; without one only the passages are told. */
  model?: string;
}

export interface Plugin {
  exports: {
    add(input: AddInput): AddOutput;
    ask(input: AskInput): AskOutput;
  };
  config: Config;
  capabilities: {
    inference: Pick<Inference, 'embed' | 'generate' | 'stream'>;
    vector: Pick<VectorPort, 'create' | 'delete' | 'list' | 'describe' | 'alias' | 'unalias' | 'upsert' | 'search' | 'deletePoints'>;
  };
}
