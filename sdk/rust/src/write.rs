//! From a [`Value`] to JSON text. What JSON has no number for, NaN and infinities, is written as null.

use crate::value::Value;
use std::fmt::{self, Display, Formatter, Write};

/// Beyond this a number is written with an exponent.
const LONG: f64 = 1e21;
const SHORT: f64 = 1e-7;

/// `to_string()` is the JSON text.
impl Display for Value {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => out.write_str("null"),
            Value::Bool(true) => out.write_str("true"),
            Value::Bool(false) => out.write_str("false"),
            Value::Number(number) => write_number(out, *number),
            Value::String(text) => write_string(out, text),
            Value::Array(items) => {
                out.write_char('[')?;
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.write_char(',')?;
                    }
                    item.fmt(out)?;
                }
                out.write_char(']')
            }
            Value::Object(members) => {
                out.write_char('{')?;
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.write_char(',')?;
                    }
                    write_string(out, name)?;
                    out.write_char(':')?;
                    value.fmt(out)?;
                }
                out.write_char('}')
            }
        }
    }
}

/// The shortest digits that read back as the same number.
fn write_number(out: &mut Formatter<'_>, number: f64) -> fmt::Result {
    let size = number.abs();
    if !number.is_finite() {
        out.write_str("null")
    } else if number == number.trunc() && size < 9e15 {
        write!(out, "{}", number as i64)
    } else if (SHORT..LONG).contains(&size) {
        write!(out, "{}", number)
    } else {
        write!(out, "{:e}", number)
    }
}

fn write_string(out: &mut Formatter<'_>, text: &str) -> fmt::Result {
    out.write_char('"')?;
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.write_str(&text[plain..at])?;
        plain = at + 1;
        match byte {
            b'"' => out.write_str("\\\"")?,
            b'\\' => out.write_str("\\\\")?,
            b'\n' => out.write_str("\\n")?,
            b'\r' => out.write_str("\\r")?,
            b'\t' => out.write_str("\\t")?,
            _ => write!(out, "\\u{:04x}", byte)?,
        }
    }
    out.write_str(&text[plain..])?;
    out.write_char('"')
}
