/**
 * From JSON text to values: the whole of RFC 8259 and nothing besides, at most 128 levels deep. Of members
 * with one name the last counts; a lone surrogate becomes U+FFFD when it leaves the plugin.
 */
import { fail } from './error';
import { Kind, Value } from './value';

const MAX_DEPTH = 128;

/** Ends the call with INVALID_ARGUMENT when the text is not JSON. */
export function parse(text: string): Value {
  const reader = new Reader(text);
  const value = reader.value(0);
  reader.space();
  if (reader.peek() >= 0) reader.wrong('nothing may follow the value');
  return value;
}

class Reader {
  private at: i32 = 0;

  constructor(private text: string) {}

  wrong(rule: string): void {
    const place = this.at.toString();
    fail('INVALID_ARGUMENT', 'this is not JSON: ' + rule + ' (character ' + place + ')');
  }

  /** The next code unit; -1 at the end. */
  peek(): i32 {
    return this.at < this.text.length ? this.text.charCodeAt(this.at) : -1;
  }

  space(): void {
    for (let unit = this.peek(); ; unit = this.peek()) {
      if (unit != 0x20 && unit != 0x0a && unit != 0x0d && unit != 0x09) return;
      this.at += 1;
    }
  }

  /** Skips space and this code unit, if it is the next. */
  private next(unit: i32): bool {
    this.space();
    if (this.peek() != unit) return false;
    this.at += 1;
    return true;
  }

  value(depth: i32): Value {
    this.space();
    const unit = this.peek();
    if (unit == 0x7b) return this.object(depth);
    if (unit == 0x5b) return this.array(depth);
    if (unit == 0x22) return Value.of(this.string());
    if (unit == 0x2d || (unit >= 0x30 && unit <= 0x39)) return this.number();
    if (this.word('null')) return Value.null();
    if (this.word('true')) return Value.boolean(true);
    if (this.word('false')) return Value.boolean(false);
    this.wrong(unit < 0 ? 'a value is missing at the end' : 'no value begins like this');
    return Value.null();
  }

  private word(word: string): bool {
    if (!this.text.startsWith(word, this.at)) return false;
    this.at += word.length;
    return true;
  }

  private enter(depth: i32): void {
    if (depth == MAX_DEPTH) this.wrong('at most 128 levels are allowed');
    this.at += 1;
  }

  private array(depth: i32): Value {
    const value = new Value(Kind.Array);
    this.enter(depth);
    if (this.next(0x5d)) return value;
    do value.push(this.value(depth + 1));
    while (this.next(0x2c));
    if (!this.next(0x5d)) this.wrong('an item is followed by , or ]');
    return value;
  }

  private object(depth: i32): Value {
    const value = new Value(Kind.Object);
    this.enter(depth);
    if (this.next(0x7d)) return value;
    do {
      this.space();
      if (this.peek() != 0x22) this.wrong('a member begins with its name in quotes');
      const name = this.string();
      if (!this.next(0x3a)) this.wrong('a name is followed by :');
      value.set(name, this.value(depth + 1));
    } while (this.next(0x2c));
    if (!this.next(0x7d)) this.wrong('a member is followed by , or }');
    return value;
  }

  private digits(): void {
    const start = this.at;
    while (this.peek() >= 0x30 && this.peek() <= 0x39) this.at += 1;
    if (this.at == start) this.wrong('a digit is missing');
  }

  private number(): Value {
    const start = this.at;
    if (this.peek() == 0x2d) this.at += 1;
    if (this.peek() == 0x30) this.at += 1;
    else this.digits();
    if (this.peek() == 0x2e) {
      this.at += 1;
      this.digits();
    }
    if ((this.peek() | 0x20) == 0x65) {
      this.at += 1;
      if (this.peek() == 0x2b || this.peek() == 0x2d) this.at += 1;
      this.digits();
    }
    return Value.digits(this.text.substring(start, this.at));
  }

  private string(): string {
    this.at += 1;
    const start = this.at;
    let escapes = false;
    for (let unit = this.peek(); unit != 0x22; unit = this.peek()) {
      if (unit < 0) this.wrong('a string has no end');
      if (unit < 0x20) this.wrong('control characters are written as escapes');
      escapes = escapes || unit == 0x5c;
      this.at += unit == 0x5c ? 2 : 1;
    }
    const end = this.at;
    this.at += 1;
    return escapes ? this.unescaped(start, end) : this.text.substring(start, end);
  }

  private unescaped(start: i32, end: i32): string {
    const units = new ArrayBuffer((end - start) << 1);
    let out = changetype<usize>(units);
    for (this.at = start; this.at < end; out += 2) {
      const unit = this.peek();
      this.at += 1;
      store<u16>(out, <u16>(unit == 0x5c ? this.escape() : unit));
    }
    this.at = end + 1;
    return String.UTF16.decodeUnsafe(changetype<usize>(units), out - changetype<usize>(units));
  }

  /** The code unit that an escape stands for, after its backslash. */
  private escape(): i32 {
    const unit = this.peek();
    this.at += 1;
    if (unit == 0x22) return 0x22;
    if (unit == 0x5c) return 0x5c;
    if (unit == 0x2f) return 0x2f;
    if (unit == 0x62) return 0x08;
    if (unit == 0x66) return 0x0c;
    if (unit == 0x6e) return 0x0a;
    if (unit == 0x72) return 0x0d;
    if (unit == 0x74) return 0x09;
    if (unit != 0x75) this.wrong('there is no such escape');
    let value = 0;
    for (let i = 0; i < 4; i += 1, this.at += 1) {
      const digit = this.peek();
      const lower = digit | 0x20;
      if (digit >= 0x30 && digit <= 0x39) value = value * 16 + digit - 0x30;
      else if (lower >= 0x61 && lower <= 0x66 && digit > 0) value = value * 16 + lower - 0x57;
      else this.wrong('\\u is followed by four hexadecimal digits');
    }
    return value;
  }
}
