//! Errors that a caller may see.

use crate::value::{Map, Value};
use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

/// The codes that a plugin may answer with. Any other becomes PLUGIN_TRAP at the caller.
pub mod code {
    pub const INVALID_ARGUMENT: &str = "INVALID_ARGUMENT";
    pub const PERMISSION_DENIED: &str = "PERMISSION_DENIED";
    pub const CAPABILITY_DENIED: &str = "CAPABILITY_DENIED";
    pub const NOT_FOUND: &str = "NOT_FOUND";
    pub const CONFLICT: &str = "CONFLICT";
    pub const GRANT_PENDING: &str = "GRANT_PENDING";
    pub const PLUGIN_DISABLED: &str = "PLUGIN_DISABLED";
    pub const PAYLOAD_TOO_LARGE: &str = "PAYLOAD_TOO_LARGE";
    pub const RATE_LIMITED: &str = "RATE_LIMITED";
    pub const RESOURCE_EXHAUSTED: &str = "RESOURCE_EXHAUSTED";
    pub const PLUGIN_TRAP: &str = "PLUGIN_TRAP";
    pub const PLUGIN_OUTPUT_INVALID: &str = "PLUGIN_OUTPUT_INVALID";
    pub const UNAVAILABLE: &str = "UNAVAILABLE";
    pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
}

/// An error that reaches the caller as it is. `message` names the field, the rule and the fix.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// One of [`code`], or what a host newer than this crate answered.
    pub code: Cow<'static, str>,
    pub message: String,
    /// Particulars for programs; null for none. Never a secret.
    pub details: Value,
    /// When the caller may come again.
    pub retry_after_ms: Option<u64>,
}

impl Error {
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Error {
        Error {
            code: code.into(),
            message: message.into(),
            details: Value::Null,
            retry_after_ms: None,
        }
    }

    pub fn with_details(self, details: impl Into<Value>) -> Error {
        Error { details: details.into(), ..self }
    }

    pub fn with_retry_after_ms(self, ms: u64) -> Error {
        Error { retry_after_ms: Some(ms), ..self }
    }

    /// The form in which errors cross the sandbox: `{code, message, details?, retryAfterMs?}`.
    pub fn to_value(&self) -> Value {
        let mut members = Map::new();
        members.insert("code".into(), Value::from(self.code.as_ref()));
        members.insert("message".into(), Value::from(&self.message));
        if !self.details.is_null() {
            members.insert("details".into(), self.details.clone());
        }
        if let Some(ms) = self.retry_after_ms {
            members.insert("retryAfterMs".into(), Value::from(ms));
        }
        Value::Object(members)
    }

    pub(crate) fn from_value(mut body: Value) -> Error {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (code, message) = (text(&body["code"]), text(&body["message"]));
        let retry_after_ms = body["retryAfterMs"].as_i64().and_then(|ms| ms.try_into().ok());
        Error { code: code.into(), message, details: body.take("details"), retry_after_ms }
    }
}

impl Display for Error {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}
