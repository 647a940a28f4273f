/** An event as plugins and clients see it: CloudEvents 1.0 (https://cloudevents.io), JSON format. */
import type { Json } from './json.ts';

export interface CloudEvent<Data = Json> {
  specversion: '1.0';
  /** A whole number as text; rises with every event of all hosts, in the order in which they are seen. */
  id: string;
  /** `/plugins/<name>` of the plugin that published it. */
  source: string;
  type: string;
  subject: string;
  /** ISO 8601. */
  time: string;
  datacontenttype: 'application/json';
  data: Data;
}
