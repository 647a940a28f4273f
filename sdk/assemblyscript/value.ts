/** JSON values (RFC 8259): making, reading and writing them. */
import { fail } from './error';

export enum Kind {
  Null,
  Boolean,
  Number,
  String,
  Array,
  Object,
}

export class Value {
  /** Of a string; of a number its JSON, so that one passed on stays what it is. */
  private content: string = '';
  private truth: bool = false;
  private list: Value[] | null = null;
  private members: Map<string, Value> | null = null;

  constructor(readonly kind: Kind) {}

  static null(): Value {
    return new Value(Kind.Null);
  }

  static of(text: string): Value {
    const value = new Value(Kind.String);
    value.content = text;
    return value;
  }

  static boolean(truth: bool): Value {
    const value = new Value(Kind.Boolean);
    value.truth = truth;
    return value;
  }

  /** Null for NaN and infinities, which JSON does not have. */
  static number(number: f64): Value {
    if (!isFinite<f64>(number)) return Value.null();
    const whole = Math.abs(number) < 9e15 && Math.trunc(number) == number;
    return Value.digits(whole ? (<i64>number).toString() : number.toString());
  }

  /** A number by its JSON text. For the parser. */
  static digits(json: string): Value {
    const value = new Value(Kind.Number);
    value.content = json;
    return value;
  }

  isNull(): bool {
    return this.kind == Kind.Null;
  }

  /** True when it is `true`. */
  isTrue(): bool {
    return this.kind == Kind.Boolean && this.truth;
  }

  /** The string; ends the call with INVALID_ARGUMENT when it is none. */
  text(): string {
    if (this.kind != Kind.String) fail('INVALID_ARGUMENT', 'a string is missing');
    return this.content;
  }

  /** The number; ends the call with INVALID_ARGUMENT when it is none. */
  float(): f64 {
    if (this.kind != Kind.Number) fail('INVALID_ARGUMENT', 'a number is missing');
    return F64.parseFloat(this.content);
  }

  /** The items of an array; none when it is no array. */
  items(): Value[] {
    const list = this.list;
    return list === null ? [] : list;
  }

  /** The names of an object's members; none when it is no object. */
  names(): string[] {
    const members = this.members;
    return members === null ? [] : members.keys();
  }

  /** A member of an object; null when there is none, or when this is no object. */
  get(name: string): Value {
    const members = this.members;
    return members !== null && members.has(name) ? members.get(name) : Value.null();
  }

  has(name: string): bool {
    const members = this.members;
    return members !== null && members.has(name);
  }

  /** Sets a member of an object, and answers the object. */
  set(name: string, value: Value): Value {
    let members = this.members;
    if (this.kind != Kind.Object) throw new Error('Value.set: this is no object');
    if (members === null) members = new Map<string, Value>();
    this.members = members;
    members.set(name, value);
    return this;
  }

  /** Appends an item to an array, and answers the array. */
  push(value: Value): Value {
    let list = this.list;
    if (this.kind != Kind.Array) throw new Error('Value.push: this is no array');
    if (list === null) list = [];
    this.list = list;
    list.push(value);
    return this;
  }

  /** The JSON text. */
  toString(): string {
    const parts: string[] = [];
    this.write(parts);
    return parts.join('');
  }

  private write(parts: string[]): void {
    if (this.kind == Kind.Null) parts.push('null');
    else if (this.kind == Kind.Boolean) parts.push(this.truth ? 'true' : 'false');
    else if (this.kind == Kind.Number) parts.push(this.content);
    else if (this.kind == Kind.String) quote(this.content, parts);
    else if (this.kind == Kind.Array) {
      const items = this.items();
      parts.push('[');
      for (let at = 0; at < items.length; at += 1) {
        if (at > 0) parts.push(',');
        items[at].write(parts);
      }
      parts.push(']');
    } else {
      const names = this.names();
      parts.push('{');
      for (let at = 0; at < names.length; at += 1) {
        if (at > 0) parts.push(',');
        quote(names[at], parts);
        parts.push(':');
        this.get(names[at]).write(parts);
      }
      parts.push('}');
    }
  }
}

export function object(): Value {
  return new Value(Kind.Object);
}

export function array(): Value {
  return new Value(Kind.Array);
}

const HEX = '0123456789abcdef';

function quote(text: string, parts: string[]): void {
  const length = text.length;
  let units = length + 2;
  for (let i = 0; i < length; i += 1) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20) units += 5;
    else if (unit == 0x22 || unit == 0x5c) units += 1;
  }
  const buffer = new ArrayBuffer(units << 1);
  const start = changetype<usize>(buffer);
  let at = start;
  store<u16>(at, 0x22);
  at += 2;
  for (let i = 0; i < length; i += 1) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20) {
      store<u64>(at, 0x0030_0030_0075_005c); // \u00
      store<u16>(at, HEX.charCodeAt(unit >> 4), 8);
      store<u16>(at, HEX.charCodeAt(unit & 15), 10);
      at += 12;
      continue;
    }
    if (unit == 0x22 || unit == 0x5c) {
      store<u16>(at, 0x5c);
      at += 2;
    }
    store<u16>(at, <u16>unit);
    at += 2;
  }
  store<u16>(at, 0x22);
  parts.push(String.UTF16.decodeUnsafe(start, <i32>(at + 2 - start)));
}
