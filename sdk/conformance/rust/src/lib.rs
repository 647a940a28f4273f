//! The conformance plugin (../../README.md) in Rust, on the ports that every author uses.

use noa_sdk::{blob, clock, log, object, plugin, random, Error, Value};

noa_sdk::export!(echo, fail, crash, call, bytes, environment);

fn echo(input: Value) -> Result<Value, Error> {
    Ok(input)
}

fn fail(mut input: Value) -> Result<Value, Error> {
    let details = input.take("details");
    let code = input.text("code")?.to_owned();
    Err(Error::new(code, input.text("message")?).with_details(details))
}

fn crash(input: Value) -> Result<Value, Error> {
    panic!("{}", input.text("message")?)
}

fn call(mut input: Value) -> Result<Value, Error> {
    let argument = input.take("input");
    match plugin::call(input.text("plugin")?, input.text("export")?, argument) {
        Ok(output) => Ok(object! { "output": output }),
        Err(error) if input["catch"].as_bool() == Some(true) => {
            Ok(object! { "error": error.to_value() })
        }
        Err(error) => Err(error),
    }
}

fn bytes(input: Value) -> Result<Value, Error> {
    let made: Vec<u8> = (0..input.integer("length")?).map(|index| (31 * index + 7) as u8).collect();
    let written = blob::write("conformance", &made, blob::Condition::Always)?;
    let read = blob::read("conformance")?;
    Ok(object! { "size": written.size, "length": read.len(), "hash": hash(&read) })
}

fn environment(input: Value) -> Result<Value, Error> {
    let message = input.text("message")?;
    match input.text("level")? {
        "debug" => log::debug(message),
        "info" => log::info(message),
        "warn" => log::warn(message),
        _ => log::error(message),
    }
    let random = random::bytes(16);
    Ok(object! { "config": noa_sdk::config()?, "epochMs": clock::now(), "random": random })
}

/// FNV-1a, 32 bits.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(16_777_619))
}
