/* Calls of exports and of the host, and the way of bytes through its blocks (sdk/abi.md). */
#include "internal.h"

#define ENV(name) __attribute__((import_module("extism:host/env"), import_name(#name)))
#define USER(name) __attribute__((import_module("extism:host/user"), import_name(#name)))

ENV(input_offset) uint64_t host_input_offset(void);
ENV(input_length) uint64_t host_input_length(void);
ENV(alloc) uint64_t host_alloc(uint64_t length);
ENV(free) void host_free(uint64_t block);
ENV(length) uint64_t host_length(uint64_t block);
ENV(output_set) void host_output_set(uint64_t block, uint64_t length);
ENV(error_set) void host_error_set(uint64_t block);
ENV(config_get) uint64_t host_config_get(uint64_t key);
ENV(log_debug) void host_log_debug(uint64_t line);
ENV(log_info) void host_log_info(uint64_t line);
ENV(log_warn) void host_log_warn(uint64_t line);
ENV(log_error) void host_log_error(uint64_t line);
USER(noa_call) uint64_t host_call(uint64_t request);
USER(noa_call_bytes) uint64_t host_call_bytes(uint64_t request, uint64_t attachment);
USER(noa_reply_bytes) uint64_t host_reply_bytes(void);
USER(noa_clock) uint64_t host_clock(void);
USER(noa_random) uint64_t host_random(void);
USER(noa_read) void host_read(uint64_t address, void *pointer, size_t length);
USER(noa_write) void host_write(uint64_t address, const void *pointer, size_t length);

/* The error of the call that runs, `{code, message, details?}`. */
static noa_value *error;

/* A new block; 0 for no bytes. */
static uint64_t put(const void *bytes, size_t length) {
  if (length == 0) return 0;
  uint64_t block = host_alloc(length);
  host_write(block, bytes, length);
  return block;
}

static uint64_t put_text(noa_text text) { return put(text.at, text.length); }

/* The bytes of a block of ours, which ends with this; none for block 0. */
static noa_bytes take(uint64_t block) {
  if (block == 0) return (noa_bytes){0};
  size_t length = (size_t)host_length(block);
  uint8_t *bytes = noa_alloc(length);
  host_read(block, bytes, length);
  host_free(block);
  return (noa_bytes){bytes, length};
}

static noa_text take_text(uint64_t block) {
  noa_bytes bytes = take(block);
  return (noa_text){(const char *)bytes.at, bytes.length};
}

static noa_value *input(void) {
  size_t length = (size_t)host_input_length();
  if (length == 0) return noa_null();
  char *text = noa_alloc(length);
  host_read(host_input_offset(), text, length);
  return noa_parse((noa_text){text, length});
}

int32_t noa_run(noa_value *(*handler)(noa_value *)) {
  noa__reset_arena();
  error = NULL;
  noa_value *value = input();
  if (value != NULL) value = handler(value);
  if (value == NULL) {
    if (error == NULL) noa_fail("PLUGIN_TRAP", noa_str("an export returned NULL without an error"));
    host_error_set(put_text(noa_write(error)));
    return 1;
  }
  noa_text text = noa_write(value);
  host_output_set(put_text(text), text.length);
  return 0;
}

noa_value *noa_fail(const char *code, noa_text message) {
  return noa_fail_with(noa_str(code), message, NULL);
}

noa_value *noa_fail_with(noa_text code, noa_text message, noa_value *details) {
  error = noa_set_text(noa_set_text(noa_object(), "code", code), "message", message);
  if (noa_kind_of(details) != NOA_NULL) noa_set(error, "details", details);
  return NULL;
}

noa_value *noa_caught(void) {
  noa_value *caught = error;
  error = NULL;
  return caught;
}

_Noreturn void noa_abort(noa_text message) {
  noa_fail("PLUGIN_TRAP", message);
  host_error_set(put_text(noa_write(error)));
  __builtin_trap();
}

static noa_text request(const char *capability, const char *operation, noa_value *arguments) {
  noa_value *whole = noa_object();
  noa_set(whole, "capability", noa_from_string(capability));
  noa_set(whole, "operation", noa_from_string(operation));
  return noa_write(noa_set(whole, "arguments", arguments ? arguments : noa_object()));
}

/* The value of a reply, or NULL with its error. */
static noa_value *reply(noa_text text) {
  noa_value *whole = noa_parse(text);
  if (whole == NULL) return NULL;
  if (noa_bool(noa_get(whole, "ok"))) {
    noa_value *value = noa_get(whole, "value");
    return value ? value : noa_null();
  }
  error = noa_get(whole, "error");
  return NULL;
}

noa_value *noa_call(const char *capability, const char *operation, noa_value *arguments) {
  uint64_t block = put_text(request(capability, operation, arguments));
  noa_text text = take_text(host_call(block));
  host_free(block);
  return reply(text);
}

noa_value *noa_call_bytes(const char *capability, const char *operation, noa_value *arguments,
                          const char *member, const noa_bytes *content, noa_bytes *answer) {
  if (content != NULL) {
    noa_value *place = noa_push(noa_array(), noa_from_number(0));
    noa_push(place, noa_from_number((double)content->length));
    noa_set(arguments, member, noa_set(noa_object(), "$bytes", place));
  }
  uint64_t block = put_text(request(capability, operation, arguments));
  uint64_t beside = content ? put(content->at, content->length) : 0;
  noa_text text = take_text(host_call_bytes(block, beside));
  noa_bytes bytes = take(host_reply_bytes());
  if (beside != 0) host_free(beside);
  host_free(block);
  noa_value *value = reply(text);
  if (answer == NULL) return value;
  noa_value *place = noa_get(noa_get(value, member), "$bytes");
  size_t offset = (size_t)noa_number(noa_at(place, 0));
  *answer = (noa_bytes){bytes.at + offset, (size_t)noa_number(noa_at(place, 1))};
  return value;
}

void noa_log(noa_level level, noa_text line) {
  uint64_t block = put_text(line);
  switch (level) {
    case NOA_DEBUG: host_log_debug(block); break;
    case NOA_INFO: host_log_info(block); break;
    case NOA_WARN: host_log_warn(block); break;
    case NOA_ERROR: host_log_error(block); break;
  }
}

noa_value *noa_config(void) {
  noa_text text = take_text(host_config_get(put_text(noa_str("noa"))));
  return text.length == 0 ? noa_object() : noa_parse(text);
}

uint64_t noa_now(void) { return host_clock() / 1000000; }

uint64_t noa_random(void) { return host_random(); }
