//! Requests to the servers that the manifest names.

use crate::call::call_bytes;
use crate::{object, Error, Value};

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, values as strings.
    pub headers: Value,
    pub body: Vec<u8>,
    /// Where the answer came from, after redirects.
    pub url: String,
}

/// A request that is being put together: `Request::new("GET", url).header("accept", "text/csv").send()`.
#[must_use]
pub struct Request {
    arguments: Value,
    headers: Value,
    body: Option<Vec<u8>>,
}

impl Request {
    /// `url` is absolute, http or https, without credentials.
    pub fn new(method: &str, url: &str) -> Request {
        let arguments = object! { "method": method, "url": url };
        Request { arguments, headers: object! {}, body: None }
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        insert(&mut self.headers, name, value.into());
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = Some(body.into());
        self
    }

    /// Milliseconds for all of it, within the call's own deadline.
    pub fn timeout_ms(mut self, milliseconds: u32) -> Request {
        insert(&mut self.arguments, "timeoutMs", milliseconds.into());
        self
    }

    /// Answers whatever the status; an error when there was no whole answer.
    pub fn send(mut self) -> Result<Answer, Error> {
        insert(&mut self.arguments, "headers", self.headers);
        let body = self.body.as_deref();
        let (value, bytes) = call_bytes("http", "request", self.arguments, "bodyBase64", body)?;
        Ok(Answer {
            status: value.integer("status")? as u16,
            body: match bytes {
                Some(bytes) => bytes,
                None => value["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
            },
            headers: value["headers"].clone(),
            url: value.text("url")?.to_owned(),
        })
    }
}

fn insert(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(name.to_owned(), value);
    }
}
