//! Short-lived state that all instances share. Anything in it may be gone at the next call.

use crate::{call, object, Error, Value};
use std::time::Duration;

/// The value, or `None` when there is none.
pub fn get(key: &str) -> Result<Option<Value>, Error> {
    let value = call("cache", "get", object! { "key": key })?.take("value");
    Ok(if value.is_null() { None } else { Some(value) })
}

/// Stores a value; without `ttl` for as long as the cache likes.
pub fn set(key: &str, value: impl Into<Value>, ttl: Option<Duration>) -> Result<(), Error> {
    let arguments = object! { "key": key, "value": value.into() };
    call("cache", "set", with_ttl(arguments, ttl)).map(drop)
}

/// True when there was a value.
pub fn delete(key: &str) -> Result<bool, Error> {
    let value = call("cache", "delete", object! { "key": key })?;
    Ok(value["deleted"].as_bool().unwrap_or(false))
}

/// Adds to a number atomically, from 0, and answers the sum; `ttl` counts from the first.
pub fn increment(key: &str, by: f64, ttl: Option<Duration>) -> Result<f64, Error> {
    let arguments = object! { "key": key, "by": by };
    call("cache", "increment", with_ttl(arguments, ttl))?.number("value")
}

/// A held lock. It ends by itself after its time; dropping it does not release it.
#[must_use]
pub struct Lock {
    key: String,
    token: String,
}

/// Takes the lock, or answers `None` when another holds it.
pub fn lock(key: &str, ttl: Duration) -> Result<Option<Lock>, Error> {
    let value = call("cache", "lock", with_ttl(object! { "key": key }, Some(ttl)))?;
    match value["acquired"].as_bool() {
        Some(true) => {
            Ok(Some(Lock { key: key.to_owned(), token: value.text("token")?.to_owned() }))
        }
        _ => Ok(None),
    }
}

impl Lock {
    /// True when the lock was still ours.
    pub fn release(self) -> Result<bool, Error> {
        let arguments = object! { "key": self.key, "release": self.token };
        let value = call("cache", "lock", arguments)?;
        Ok(value["released"].as_bool().unwrap_or(false))
    }
}

fn with_ttl(mut arguments: Value, ttl: Option<Duration>) -> Value {
    if let (Value::Object(members), Some(ttl)) = (&mut arguments, ttl) {
        members.insert("ttlMs".into(), Value::from(ttl.as_millis() as f64));
    }
    arguments
}
