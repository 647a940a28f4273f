// Written by `noa plugin types` from plugin.json; changes are lost.
import type { CloudEvent, Db, EventsPort } from '@noa/sdk';

export interface PlaceInput {
  item: string;
  quantity: number;
}

export interface PlaceOutput {
  event: string;
}

export type ReportInput = Record<string, never>;

export interface ReportOutput {
  text: string;
}

export interface Config {
  /** What a report begins with. */
  title: string;
}

export interface Plugin {
  exports: {
    place(input: PlaceInput): PlaceOutput;
    count(input: CloudEvent): unknown;
    report(input: ReportInput): ReportOutput;
  };
  config: Config;
  capabilities: {
    db: Pick<Db, 'query' | 'execute'>;
    events: Pick<EventsPort, 'publish'>;
  };
}
