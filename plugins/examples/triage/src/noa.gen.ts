// Written by `noa plugin types` from plugin.json; changes are lost.
import type { Inference } from '@noa/sdk';

export interface SortInput {
  text: string;
}

export interface SortOutput {
  /** The likeliest of the configured topics. */
  about: string;
  /** From 0 to 1. */
  certainty: number;
}

export interface AnswerInput {
  question: string;
}

export interface AnswerOutput {
  answer: string;
  /** Of the questions, from -1 to 1. */
  likeness: number;
}

export interface Config {
  topics: string[];
  answers: {
    question: string;
    answer: string;
  }[];
}

export interface Plugin {
  exports: {
    sort(input: SortInput): SortOutput;
    answer(input: AnswerInput): AnswerOutput;
  };
  config: Config;
  capabilities: {
    inference: Pick<Inference, 'embed' | 'classify'>;
  };
}
