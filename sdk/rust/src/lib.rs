//! Plugins for NOA in Rust. A plugin is a `cdylib` for `wasm32-unknown-unknown` whose functions
//! [`export!`] names; what they may reach is in its plugin.json.
//!
//! Invariant: no dependencies, and no state between calls but what the plugin itself keeps.

pub mod blob;
pub mod cache;
mod call;
pub mod db;
mod error;
mod export;
mod host;
pub mod http;
mod parse;
mod value;
mod write;

pub use call::{call, call_bytes};
pub use error::{code, Error};
pub use export::run;
pub use value::{Map, Value};

/// Exports of other plugins.
pub mod plugin {
    use crate::{object, Error, Value};

    /// Calls an export of another plugin; an error is the one that it answered.
    pub fn call(plugin: &str, export: &str, input: impl Into<Value>) -> Result<Value, Error> {
        let arguments = object! { "plugin": plugin, "export": export, "input": input.into() };
        Ok(crate::call("plugin", "call", arguments)?.take("output"))
    }
}

/// The log of events that all plugins share.
pub mod events {
    use crate::{call, object, Error, Value};

    /// Appends an event; it is durable when this returns. Answers `{id, time}`.
    pub fn publish(subject: &str, kind: &str, data: impl Into<Value>) -> Result<Value, Error> {
        call("events", "publish", object! { "subject": subject, "type": kind, "data": data.into() })
    }

    /// Reads events after an id, oldest first: `{events, next}`; `next` is the `after` of the next read.
    pub fn subscribe(subject: &str, after: Option<&str>) -> Result<Value, Error> {
        let arguments = match after {
            Some(after) => object! { "subject": subject, "after": after },
            None => object! { "subject": subject },
        };
        call("events", "subscribe", arguments)
    }
}

/// Values that an administrator set for this plugin to read.
pub mod secrets {
    use crate::{call, object, Error};

    /// `NOT_FOUND` when it is not set. What is read must not be logged or answered.
    pub fn read(name: &str) -> Result<String, Error> {
        Ok(call("secrets", "read", object! { "name": name })?.text("value")?.to_owned())
    }
}

/// The plugin's log; open to every plugin within a rate.
pub mod log {
    use crate::host::{log, Level};

    pub fn debug(message: &str) {
        log(Level::Debug, message)
    }
    pub fn info(message: &str) {
        log(Level::Info, message)
    }
    pub fn warn(message: &str) {
        log(Level::Warn, message)
    }
    pub fn error(message: &str) {
        log(Level::Error, message)
    }
}

/// The host's clock; open to every plugin.
pub mod clock {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn now() -> u64 {
        nanoseconds() / 1_000_000
    }

    pub fn nanoseconds() -> u64 {
        crate::host::clock()
    }
}

/// The host's cryptographic random source; open to every plugin.
pub mod random {
    /// 64 random bits.
    pub fn bits() -> u64 {
        crate::host::random()
    }

    pub fn bytes(length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&bits().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// The plugin's configuration, as the schema in its manifest accepted it.
pub fn config() -> Result<Value, Error> {
    let bytes = host::config("noa");
    let text = String::from_utf8_lossy(&bytes);
    Value::parse(&text)
}
