/** Runs of exports, and capability calls of any kind; the ports are made of these. */
import { failWith } from './error';
import { beside, configuration, input, request, requestBytes, setOutput } from './host';
import { parse } from './parse';
import { Kind, Value, array, object } from './value';

/** Runs an export: `export function echo(): i32 { return run((input) => input); }`. */
export function run(handler: (input: Value) => Value): i32 {
  const text = input();
  const output = handler(text.length == 0 ? Value.null() : parse(text)).toString();
  setOutput(output);
  // What the call made is garbage now; without this an instance would grow until it is dropped.
  __collect();
  return 0;
}

/** How a capability call ended: with a value, or with an error `{code, message, details?}`. */
export class Reply {
  constructor(
    readonly value: Value,
    /** Null when there is none. */
    readonly error: Value,
    /** What the member of the value holds that is bytes. */
    readonly bytes: ArrayBuffer,
  ) {}

  /** The value; an error ends the call and reaches the caller with its own code. */
  orFail(): Value {
    if (!this.error.isNull()) failWith(this.error);
    return this.value;
  }
}

/** Calls an operation of a capability with an object of arguments. */
export function tryCall(capability: string, operation: string, args: Value): Reply {
  return reply(request(envelope(capability, operation, args)), '', new ArrayBuffer(0));
}

/** The same, where an error ends the call. */
export function call(capability: string, operation: string, args: Value): Value {
  return tryCall(capability, operation, args).orFail();
}

/**
 * The same where one member of the arguments or of the value is bytes, which go beside the JSON; `content`
 * is what the member of the arguments holds, null for nothing.
 */
export function tryCallBytes(
  capability: string,
  operation: string,
  args: Value,
  member: string,
  content: ArrayBuffer | null,
): Reply {
  let attachment = new ArrayBuffer(0);
  if (content !== null) {
    const place = array().push(Value.number(0)).push(Value.number(content.byteLength));
    args.set(member, object().set('$bytes', place));
    attachment = content;
  }
  const text = requestBytes(envelope(capability, operation, args), attachment);
  return reply(text, member, beside);
}

function envelope(capability: string, operation: string, args: Value): string {
  return object()
    .set('capability', Value.of(capability))
    .set('operation', Value.of(operation))
    .set('arguments', args)
    .toString();
}

function reply(text: string, member: string, attachment: ArrayBuffer): Reply {
  const whole = parse(text);
  if (!whole.get('ok').isTrue()) {
    return new Reply(Value.null(), whole.get('error'), new ArrayBuffer(0));
  }
  const value = whole.get('value');
  const place = value.get(member).get('$bytes').items();
  if (place.length != 2) return new Reply(value, Value.null(), new ArrayBuffer(0));
  const offset = <i32>place[0].float();
  const bytes = attachment.slice(offset, offset + <i32>place[1].float());
  return new Reply(value, Value.null(), bytes);
}

/** The plugin's configuration, as the schema in its manifest accepted it. */
export function config(): Value {
  const text = configuration();
  return text.length == 0 ? new Value(Kind.Object) : parse(text);
}
