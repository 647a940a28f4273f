//! From JSON text to a [`Value`]: the whole of RFC 8259 and nothing besides, at most 128 levels deep. Of
//! members with the same name the last one counts; a lone surrogate becomes U+FFFD.

use crate::error::{code, Error};
use crate::value::{Map, Value};

const MAX_DEPTH: usize = 128;

impl Value {
    /// An error has the code `INVALID_ARGUMENT` and says at which byte the text breaks which rule.
    pub fn parse(text: &str) -> Result<Value, Error> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        match reader.peek() {
            None => Ok(value),
            Some(_) => reader.fail("nothing may follow the value"),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Always at the start of a character.
    at: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, rule: &str) -> Result<T, Error> {
        let message = format!("this is not JSON: {} (byte {})", rule, self.at);
        Err(Error::new(code::INVALID_ARGUMENT, message))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips space and this byte, if it is the next.
    fn next_is(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => self.fail("no value begins like this"),
            None => self.fail("a value is missing at the end"),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Error> {
        if !self.text[self.at..].starts_with(word) {
            return self.fail("no value begins like this");
        }
        self.at += word.len();
        Ok(value)
    }

    fn enter(&mut self, depth: usize) -> Result<(), Error> {
        if depth == MAX_DEPTH {
            return self.fail("at most 128 levels are allowed");
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<Value, Error> {
        self.enter(depth)?;
        let mut items = Vec::new();
        if self.next_is(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.next_is(b']') {
                return Ok(Value::Array(items));
            }
            if !self.next_is(b',') {
                return self.fail("an item is followed by , or ]");
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Error> {
        self.enter(depth)?;
        let mut members = Map::new();
        if self.next_is(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.fail("a member begins with its name in quotes");
            }
            let name = self.string()?;
            if !self.next_is(b':') {
                return self.fail("a name is followed by :");
            }
            let value = self.value(depth + 1)?;
            members.insert(name, value);
            if self.next_is(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.next_is(b',') {
                return self.fail("a member is followed by , or }");
            }
        }
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return self.fail("a digit is missing");
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, Error> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        match self.text[start..self.at].parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Number(number)),
            _ => self.fail("the number is too large"),
        }
    }

    fn string(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut value = String::new();
        loop {
            let start = self.at;
            while matches!(self.peek(), Some(byte) if byte >= 0x20 && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            value.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(value);
                }
                Some(b'\\') => {
                    self.at += 1;
                    value.push(self.escape()?);
                }
                Some(_) => return self.fail("control characters are written as escapes"),
                None => return self.fail("a string has no end"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let character = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.fail("there is no such escape"),
        };
        self.at += 1;
        Ok(character)
    }

    /// After `\u`: one code unit, or two that are a surrogate pair.
    fn unicode(&mut self) -> Result<char, Error> {
        let first = self.unit()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.unit()?;
            if (0xdc00..0xe000).contains(&second) {
                let point = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn unit(&mut self) -> Result<u32, Error> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or(b"");
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return self.fail("\\u is followed by four hexadecimal digits");
        }
        let value = digits
            .iter()
            .fold(0, |sum, digit| sum * 16 + (*digit as char).to_digit(16).unwrap_or(0));
        self.at += 4;
        Ok(value)
    }
}
