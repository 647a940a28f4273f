//! Bytes under paths such as `reports/2026.pdf`, on the disk of the host.

use crate::call::call_bytes;
use crate::{call, object, Error, Value};

/// Which content a write may replace.
pub enum Condition<'a> {
    Always,
    /// The one with this etag; another is `CONFLICT`.
    Match(&'a str),
    /// None: a blob that is there is `CONFLICT`.
    Absent,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Changes with the content.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// The whole content. `NOT_FOUND` when there is no such blob.
pub fn read(path: &str) -> Result<Vec<u8>, Error> {
    read_with(object! { "path": path })
}

/// The content from `offset` on, at most `length` bytes.
pub fn read_range(path: &str, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
    read_with(object! { "path": path, "offset": offset, "length": length })
}

fn read_with(arguments: Value) -> Result<Vec<u8>, Error> {
    let (_, bytes) = call_bytes("blob", "read", arguments, "base64", None)?;
    Ok(bytes.unwrap_or_default())
}

/// Makes or replaces a blob as a whole. `RESOURCE_EXHAUSTED` over the quota.
pub fn write(path: &str, content: &[u8], condition: Condition<'_>) -> Result<Written, Error> {
    let arguments = match condition {
        Condition::Always => object! { "path": path },
        Condition::Match(etag) => object! { "path": path, "ifMatch": etag },
        Condition::Absent => object! { "path": path, "ifNoneMatch": "*" },
    };
    let (value, _) = call_bytes("blob", "write", arguments, "base64", Some(content))?;
    let size = value.integer("size")? as u64;
    Ok(Written { etag: value.text("etag")?.to_owned(), size })
}

/// A page of blobs in order of path: `{entries: [{path, size, etag, modifiedAt}], next}`. `next` is the
/// cursor of the page after it, null after the last.
pub fn list(prefix: &str, cursor: Option<&str>) -> Result<Value, Error> {
    let arguments = match cursor {
        Some(cursor) => object! { "prefix": prefix, "cursor": cursor },
        None => object! { "prefix": prefix },
    };
    call("blob", "list", arguments)
}

/// True when there was one.
pub fn delete(path: &str) -> Result<bool, Error> {
    let value = call("blob", "delete", object! { "path": path })?;
    Ok(value["deleted"].as_bool().unwrap_or(false))
}
