//! Capability calls of any kind; [`crate::db`] and the other ports are made of these.

use crate::error::{code, Error};
use crate::host;
use crate::object;
use crate::value::Value;

/// Calls an operation of a capability with an object of arguments and answers its value. Its error is the
/// host's: given on with `?` it reaches the caller with its own code.
pub fn call(capability: &str, operation: &str, arguments: Value) -> Result<Value, Error> {
    reply(host::call(&request(capability, operation, arguments)))
}

/// The same where a member of the arguments or of the value is bytes, which go beside the JSON. `content`
/// is what the member of the arguments holds; the answer is the value and what its member holds.
pub fn call_bytes(
    capability: &str,
    operation: &str,
    mut arguments: Value,
    member: &str,
    content: Option<&[u8]>,
) -> Result<(Value, Option<Vec<u8>>), Error> {
    if let (Value::Object(members), Some(bytes)) = (&mut arguments, content) {
        let place = Value::from(vec![0, bytes.len()]);
        members.insert(member.to_owned(), object! { "$bytes": place });
    }
    let request = request(capability, operation, arguments);
    let (text, mut beside) = host::call_bytes(&request, content.unwrap_or_default());
    let mut value = reply(text)?;
    let place = value.take(member).take("$bytes");
    let bytes = match (place[0].as_i64(), place[1].as_i64()) {
        (Some(offset), Some(length)) => {
            beside.truncate((offset + length) as usize);
            beside.drain(..offset as usize);
            Some(beside)
        }
        _ => None,
    };
    Ok((value, bytes))
}

fn request(capability: &str, operation: &str, arguments: Value) -> String {
    object! { "capability": capability, "operation": operation, "arguments": arguments }.to_json()
}

fn reply(text: Vec<u8>) -> Result<Value, Error> {
    let text = String::from_utf8(text).map_err(|_| broken("is not UTF-8"))?;
    let mut reply = Value::parse(&text).map_err(|error| broken(&error.message))?;
    match reply["ok"].as_bool() {
        Some(true) => Ok(reply.take("value")),
        _ => Err(Error::from_value(reply.take("error"))),
    }
}

fn broken(what: &str) -> Error {
    Error::new(code::UNAVAILABLE, format!("the host's reply: {}", what))
}
