/**
 * The services of this host, read once from `proto/`: everything that is called, answered and told by
 * reflection comes from this one set.
 */
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadSync, type MethodDefinition, type PackageDefinition } from '@grpc/proto-loader';

const FOLDER = fileURLToPath(new URL('../../../proto', import.meta.url));

export type Definition = MethodDefinition<object, object>;

export interface Method {
  /** `noa.api.v1.InferenceService/Invoke`: how manifests, policies, metrics and traces name it. */
  readonly name: string;
  readonly service: string;
  /** Of the service, `Invoke`. */
  readonly short: string;
  /** Full name of the message. */
  readonly request: string;
  /** Full name of the message. */
  readonly response: string;
  readonly definition: Definition;
}

export interface Protos {
  readonly definitions: PackageDefinition;
  /** By name. */
  readonly methods: ReadonlyMap<string, Method>;
  readonly services: ReadonlySet<string>;
}

export function loadProtos(): Protos {
  const files = readdirSync(FOLDER, { recursive: true, encoding: 'utf8' });
  const definitions = loadSync(
    files.filter((file) => file.endsWith('.proto')),
    {
      includeDirs: [FOLDER],
      keepCase: true,
      longs: String,
      enums: String,
      defaults: true,
    },
  );
  const methods = new Map<string, Method>();
  for (const [service, members] of Object.entries(definitions)) {
    if ('format' in members) continue; // a message, or an enumeration
    for (const [short, definition] of Object.entries(members)) {
      const name = `${service}/${short}`;
      const scope = service.slice(0, service.lastIndexOf('.') + 1);
      const [request, response] = [definition.requestType, definition.responseType].map(
        ({ type }) => scope + (type as { readonly name: string }).name,
      ) as [string, string];
      methods.set(name, { name, service, short, request, response, definition });
    }
  }
  const services = new Set([...methods.values()].map(({ service }) => service));
  return { definitions, methods, services };
}
