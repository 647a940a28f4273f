//! JSON values (RFC 8259). Numbers are 64-bit floats, as they are everywhere else in NOA: integers are
//! exact up to 2^53.

use crate::error::{code, Error};
use std::collections::BTreeMap;
use std::ops::Index;

pub type Map = BTreeMap<String, Value>;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    Array(Vec<Value>),
    Object(Map),
}

static NULL: Value = Value::Null;

impl Value {
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number(value) => Some(*value),
            _ => None,
        }
    }

    /// The number when it is an integer that a float holds exactly: up to 2^53 on either side.
    pub fn as_i64(&self) -> Option<i64> {
        let value = self.as_f64()?;
        let exact = value.trunc() == value && value.abs() <= 9_007_199_254_740_992.0;
        exact.then(|| value as i64)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Value::Object(value) => Some(value),
            _ => None,
        }
    }

    /// The string in a member; an error `INVALID_ARGUMENT` that names the member when there is none.
    pub fn text(&self, member: &str) -> Result<&str, Error> {
        self[member].as_str().ok_or_else(|| wrong(member, "a string"))
    }

    /// The number in a member; an error `INVALID_ARGUMENT` that names the member when there is none.
    pub fn number(&self, member: &str) -> Result<f64, Error> {
        self[member].as_f64().ok_or_else(|| wrong(member, "a number"))
    }

    /// The integer in a member; an error `INVALID_ARGUMENT` that names the member when there is none.
    pub fn integer(&self, member: &str) -> Result<i64, Error> {
        self[member].as_i64().ok_or_else(|| wrong(member, "an integer"))
    }

    /// Takes a member out of an object; null when there is none.
    pub fn take(&mut self, member: &str) -> Value {
        match self {
            Value::Object(members) => members.remove(member).unwrap_or(Value::Null),
            _ => Value::Null,
        }
    }
}

fn wrong(member: &str, kind: &str) -> Error {
    Error::new(code::INVALID_ARGUMENT, format!("{} must be {}", member, kind))
}

/// A member of an object; null when there is none, or when this is no object.
impl Index<&str> for Value {
    type Output = Value;
    fn index(&self, member: &str) -> &Value {
        self.as_object().and_then(|members| members.get(member)).unwrap_or(&NULL)
    }
}

/// An item of an array; null when there is none, or when this is no array.
impl Index<usize> for Value {
    type Output = Value;
    fn index(&self, item: usize) -> &Value {
        self.as_array().and_then(|items| items.get(item)).unwrap_or(&NULL)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::String(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Value {
        Value::String(value.clone())
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::Array(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl From<Map> for Value {
    fn from(members: Map) -> Value {
        Value::Object(members)
    }
}

macro_rules! numbers {
    ($($kind:ty)*) => { $(
        impl From<$kind> for Value {
            fn from(value: $kind) -> Value {
                Value::Number(value as f64)
            }
        }
    )* };
}
numbers!(i8 u8 i16 u16 i32 u32 i64 u64 isize usize f32 f64);

/// An object: `object! { "name": name, "count": 3 }`. Values are all that turns into a [`Value`].
#[macro_export]
macro_rules! object {
    ($($member:literal : $value:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut members = $crate::Map::new();
        $( members.insert(::std::string::String::from($member), $crate::Value::from($value)); )*
        $crate::Value::Object(members)
    }};
}

/// An array of values of any kinds: `array![1, "two", Value::Null]`.
#[macro_export]
macro_rules! array {
    ($($value:expr),* $(,)?) => {
        $crate::Value::Array(::std::vec![$( $crate::Value::from($value) ),*])
    };
}
