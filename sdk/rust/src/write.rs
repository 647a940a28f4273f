//! From a [`Value`] to JSON text. What JSON has no number for, NaN and infinities, is written as null.

use crate::value::Value;
use std::fmt::{self, Display, Formatter, Write};

/// Beyond this a number is written with an exponent.
const LONG: f64 = 1e21;
const SHORT: f64 = 1e-7;

impl Value {
    /// The JSON text.
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(256);
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(true) => out.push_str("true"),
            Value::Bool(false) => out.push_str("false"),
            Value::Number(number) => write_number(out, *number),
            Value::String(text) => write_string(out, text),
            Value::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write_string(out, name);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// The JSON text.
impl Display for Value {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(&self.to_json())
    }
}

/// The shortest digits that read back as the same number. Writing to a `String` cannot fail.
fn write_number(out: &mut String, number: f64) {
    let size = number.abs();
    let written = if !number.is_finite() {
        out.write_str("null")
    } else if number == number.trunc() && size < 9e15 {
        write!(out, "{}", number as i64)
    } else if (SHORT..LONG).contains(&size) {
        write!(out, "{}", number)
    } else {
        write!(out, "{:e}", number)
    };
    debug_assert!(written.is_ok());
}

fn write_string(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                out.push_str("\\u00");
                out.push(HEX[usize::from(byte >> 4)] as char);
                out.push(HEX[usize::from(byte & 15)] as char);
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}
