//! The host's functions and the way of bytes through its blocks (sdk/abi.md). The one file with `unsafe`:
//! what leaves it is owned by the guest, and every block that the guest got is freed.

mod raw {
    #[link(wasm_import_module = "extism:host/env")]
    extern "C" {
        pub fn input_offset() -> u64;
        pub fn input_length() -> u64;
        pub fn alloc(length: u64) -> u64;
        pub fn free(block: u64);
        pub fn length(block: u64) -> u64;
        pub fn output_set(block: u64, length: u64);
        pub fn error_set(block: u64);
        pub fn config_get(key: u64) -> u64;
        pub fn log_debug(line: u64);
        pub fn log_info(line: u64);
        pub fn log_warn(line: u64);
        pub fn log_error(line: u64);
    }

    #[link(wasm_import_module = "extism:host/user")]
    extern "C" {
        pub fn noa_call(request: u64) -> u64;
        pub fn noa_call_bytes(request: u64, attachment: u64) -> u64;
        pub fn noa_reply_bytes() -> u64;
        pub fn noa_clock() -> u64;
        pub fn noa_random() -> u64;
        pub fn noa_read(address: u64, pointer: *mut u8, length: usize);
        pub fn noa_write(address: u64, pointer: *const u8, length: usize);
    }
}

#[derive(Clone, Copy)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// A new block with these bytes; 0 for none. The host traps the call when it has no room.
fn put(bytes: &[u8]) -> u64 {
    if bytes.is_empty() {
        return 0;
    }
    unsafe {
        let block = raw::alloc(bytes.len() as u64);
        raw::noa_write(block, bytes.as_ptr(), bytes.len());
        block
    }
}

fn copy(address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    unsafe { raw::noa_read(address, bytes.as_mut_ptr(), length) };
    bytes
}

/// The bytes of a block that is the guest's, which ends with this; none for block 0.
fn take(block: u64) -> Vec<u8> {
    if block == 0 {
        return Vec::new();
    }
    unsafe {
        let bytes = copy(block, raw::length(block) as usize);
        raw::free(block);
        bytes
    }
}

fn release(block: u64) {
    if block != 0 {
        unsafe { raw::free(block) }
    }
}

pub fn input() -> Vec<u8> {
    unsafe { copy(raw::input_offset(), raw::input_length() as usize) }
}

pub fn set_output(text: &str) {
    unsafe { raw::output_set(put(text.as_bytes()), text.len() as u64) }
}

pub fn set_error(text: &str) {
    unsafe { raw::error_set(put(text.as_bytes())) }
}

/// The value of a key of the configuration as JSON text; empty when there is none.
pub fn config(key: &str) -> Vec<u8> {
    take(unsafe { raw::config_get(put(key.as_bytes())) })
}

pub fn log(level: Level, line: &str) {
    let block = put(line.as_bytes());
    unsafe {
        match level {
            Level::Debug => raw::log_debug(block),
            Level::Info => raw::log_info(block),
            Level::Warn => raw::log_warn(block),
            Level::Error => raw::log_error(block),
        }
    }
}

/// Request and reply as JSON text.
pub fn call(request: &str) -> Vec<u8> {
    let block = put(request.as_bytes());
    let reply = take(unsafe { raw::noa_call(block) });
    release(block);
    reply
}

/// The same with bytes beside the request, and those beside the reply.
pub fn call_bytes(request: &str, attachment: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (block, beside) = (put(request.as_bytes()), put(attachment));
    let reply = take(unsafe { raw::noa_call_bytes(block, beside) });
    let bytes = take(unsafe { raw::noa_reply_bytes() });
    release(beside);
    release(block);
    (reply, bytes)
}

/// Nanoseconds since 1970-01-01T00:00:00Z.
pub fn clock() -> u64 {
    unsafe { raw::noa_clock() }
}

pub fn random() -> u64 {
    unsafe { raw::noa_random() }
}
