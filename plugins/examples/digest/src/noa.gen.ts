// Written by `noa plugin types` from plugin.json; changes are lost.
import type { Db, PluginPort } from '@noa/sdk';

export interface DigestInput {
  /** How many of the newest notes, 20 when absent. */
  limit?: number;
}

export interface DigestOutput {
  /** How many notes this is about. */
  notes: number;
  /** How many words they have together. */
  words: number;
  /** The first line of each, the newest first. */
  titles: string[];
}

export interface Plugin {
  exports: {
    digest(input: DigestInput): DigestOutput;
  };
  config: {};
  capabilities: {
    db: Pick<Db, 'query'>;
    plugin: Pick<PluginPort, 'call'>;
  };
}
