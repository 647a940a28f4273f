/**
 * Holds answers of a running front against its own OpenAPI document. Invariant: an answer fits only when
 * its operation lists its status, media type and every member of its body.
 */
import { compileSchema, isSchema, type JsonSchema } from '@noa/sdk/host';

interface Header {
  readonly $ref: string;
}

interface Response {
  readonly headers?: { readonly [name: string]: Header };
  readonly content?: { readonly [type: string]: { readonly schema: JsonSchema } };
}

interface Operation {
  readonly operationId: string;
  readonly summary?: string;
  readonly tags?: readonly string[];
  readonly parameters?: readonly {
    readonly name: string;
    readonly in: string;
    readonly required: boolean;
    readonly schema: JsonSchema;
  }[];
  readonly requestBody?: {
    readonly required: boolean;
    readonly content: { readonly [type: string]: { readonly schema: JsonSchema } };
  };
  readonly responses: { readonly [status: string]: Response | { readonly $ref: string } };
  readonly security?: readonly object[];
  readonly 'x-noa-plugin'?: object;
}

export interface OpenApiDocument {
  readonly openapi: string;
  readonly paths: { readonly [path: string]: { readonly [method: string]: Operation } };
  readonly components: {
    readonly schemas: { readonly [name: string]: JsonSchema };
    readonly responses: { readonly [name: string]: Response };
  };
}

export interface GivenAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** Answered by paths that take other methods; no operation lists them. */
const OF_NO_OPERATION = [405, 431];

export class Conformance {
  readonly #document: OpenApiDocument;
  readonly #checks = new Map<JsonSchema, ReturnType<typeof compileSchema>>();

  constructor(document: OpenApiDocument) {
    this.#document = document;
  }

  /** What is wrong with an answer by the document; nothing where the document has no such operation. */
  fault(method: string, target: string, answer: GivenAnswer): string | undefined {
    const operation = this.operation(method === 'HEAD' ? 'GET' : method, target);
    if (operation === undefined || OF_NO_OPERATION.includes(answer.status)) return undefined;
    const where = `${operation.operationId} ${answer.status}`;
    const response = this.#response(operation, answer.status);
    if (response === undefined) return `${where}: the operation does not list this status`;
    for (const name of ['x-request-id', 'traceparent']) {
      if (!answer.headers.has(name)) return `${where}: ${name} is missing`;
      if (response.headers?.[name] === undefined) return `${where}: ${name} is not described`;
    }
    if (response.headers?.['location'] && !answer.headers.has('location')) {
      return `${where}: location is missing`;
    }
    if (method === 'HEAD') return undefined;
    const type = answer.headers.get('content-type')?.split(';', 1)[0] ?? '';
    const schema = response.content?.[type]?.schema;
    if (schema === undefined) {
      const none = response.content === undefined && answer.text === '';
      return none ? undefined : `${where}: ${type || 'no body'} is not described`;
    }
    if (!type.endsWith('json')) return undefined;
    const [broken] = this.#check(schema)(JSON.parse(answer.text));
    return broken && `${where}: ${broken.path} ${broken.message}`;
  }

  /** The operation that serves a path; a fixed segment wins over a parameter. */
  operation(method: string, target: string): Operation | undefined {
    const [path = ''] = target.split('?', 1);
    const segments = path.split('/');
    const [best] = Object.keys(this.#document.paths)
      .filter((template) => fits(template.split('/'), segments))
      .sort((a, b) => a.split('{').length - b.split('{').length);
    return best === undefined ? undefined : this.#document.paths[best]?.[method.toLowerCase()];
  }

  #response({ responses }: Operation, status: number): Response | undefined {
    const found = responses[status];
    if (found === undefined || !('$ref' in found)) return found;
    return this.#document.components.responses[found.$ref.split('/').at(-1) ?? ''];
  }

  #check(schema: JsonSchema): ReturnType<typeof compileSchema> {
    let check = this.#checks.get(schema);
    if (check === undefined) {
      const alone = { ...schema, $defs: this.#document.components.schemas };
      const text = JSON.stringify(closed(alone)).replaceAll('#/components/schemas/', '#/$defs/');
      this.#checks.set(schema, (check = compileSchema(JSON.parse(text) as JsonSchema)));
    }
    return check;
  }
}

function fits(template: readonly string[], segments: readonly string[]): boolean {
  return (
    template.length === segments.length &&
    template.every((part, index) => {
      return part.startsWith('{') ? segments[index] !== '' : part === segments[index];
    })
  );
}

/** The schema with no room for members that it does not describe. */
function closed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closed);
  if (!isSchema(value)) return value;
  const inner = Object.fromEntries(Object.entries(value).map(([key, part]) => [key, closed(part)]));
  const isObject = value['type'] === 'object' && isSchema(value['properties']);
  return isObject ? { additionalProperties: false, ...inner } : inner;
}
