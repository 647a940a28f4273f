//! What runs an export: input, function, output or error.

use crate::error::{code, Error};
use crate::host;
use crate::value::Value;
use std::any::Any;
use std::panic::{self, Location};
use std::sync::Once;

/// Makes functions `fn(Value) -> Result<Value, Error>` exports of the plugin, under their own names.
///
/// ```ignore
/// fn greet(input: Value) -> Result<Value, Error> {
///     Ok(object! { "text": format!("Hello, {}!", input.text("name")?) })
/// }
/// noa_sdk::export!(greet);
/// ```
#[macro_export]
macro_rules! export {
    ($($function:ident),+ $(,)?) => {
        mod noa_exports {
            $(
                #[no_mangle]
                pub extern "C" fn $function() -> i32 {
                    $crate::run(super::$function)
                }
            )+
        }
    };
}

static HOOK: Once = Once::new();

/// Runs an export once. For [`export!`].
#[doc(hidden)]
pub fn run(function: fn(Value) -> Result<Value, Error>) -> i32 {
    HOOK.call_once(|| {
        panic::set_hook(Box::new(|panic| report(panic.payload(), panic.location())));
    });
    match input().and_then(function) {
        Ok(output) => {
            host::set_output(&output.to_json());
            0
        }
        Err(error) => {
            host::set_error(&error.to_value().to_json());
            1
        }
    }
}

/// An empty input is none.
fn input() -> Result<Value, Error> {
    let bytes = host::input();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Error::new(code::INVALID_ARGUMENT, "the input is not UTF-8"))?;
    Value::parse(text)
}

/// A panic becomes the error PLUGIN_TRAP with its message; the trap that follows ends the instance.
fn report(payload: &(dyn Any + Send), place: Option<&Location<'_>>) {
    let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "a panic",
    };
    let mut body = Error::new(code::PLUGIN_TRAP, message).to_value();
    if let (Value::Object(members), Some(place)) = (&mut body, place) {
        let line = format!("at {}:{}", place.file(), place.line());
        members.insert("stack".into(), line.into());
    }
    host::set_error(&body.to_json());
}
