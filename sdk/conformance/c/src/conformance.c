/* The conformance plugin (../../README.md) in C. */
#include <noa.h>

NOA_EXPORT(echo, input) { return input; }

NOA_EXPORT(fail, input) {
  noa_text code = noa_string(noa_get(input, "code"));
  noa_text message = noa_string(noa_get(input, "message"));
  return noa_fail_with(code, message, noa_get(input, "details"));
}

NOA_EXPORT(crash, input) { noa_abort(noa_string(noa_get(input, "message"))); }

NOA_EXPORT(call, input) {
  noa_value *arguments = noa_object();
  noa_set(arguments, "plugin", noa_get(input, "plugin"));
  noa_set(arguments, "export", noa_get(input, "export"));
  noa_set(arguments, "input", noa_get(input, "input"));
  noa_value *value = noa_call("plugin", "call", arguments);
  if (value == NULL && noa_bool(noa_get(input, "catch"))) {
    return noa_set(noa_object(), "error", noa_caught());
  }
  return value;
}

/* FNV-1a, 32 bits. */
static uint32_t hash(noa_bytes bytes) {
  uint32_t sum = 2166136261u;
  for (size_t i = 0; i < bytes.length; i += 1) sum = (sum ^ bytes.at[i]) * 16777619u;
  return sum;
}

static noa_value *blob(void) {
  return noa_set(noa_object(), "path", noa_from_string("conformance"));
}

NOA_EXPORT(bytes, input) {
  size_t length = (size_t)noa_number(noa_get(input, "length"));
  uint8_t *made = noa_alloc(length);
  for (size_t i = 0; i < length; i += 1) made[i] = (uint8_t)(31 * i + 7);
  noa_bytes content = {made, length}, read;
  noa_value *written = noa_call_bytes("blob", "write", blob(), "base64", &content, NULL);
  if (written == NULL) return NULL;
  if (noa_call_bytes("blob", "read", blob(), "base64", NULL, &read) == NULL) return NULL;
  noa_value *output = noa_set(noa_object(), "size", noa_get(written, "size"));
  noa_set(output, "length", noa_from_number((double)read.length));
  return noa_set(output, "hash", noa_from_number(hash(read)));
}

NOA_EXPORT(environment, input) {
  static const char *const names[] = {"debug", "info", "warn", "error"};
  for (int level = NOA_DEBUG; level <= NOA_ERROR; level += 1) {
    if (!noa_equal(noa_string(noa_get(input, "level")), noa_str(names[level]))) continue;
    noa_log((noa_level)level, noa_string(noa_get(input, "message")));
  }
  noa_value *random = noa_array();
  for (int i = 0; i < 2; i += 1) {
    uint64_t bits = noa_random();
    for (int j = 0; j < 8; j += 1) noa_push(random, noa_from_number((double)(bits >> 8 * j & 255)));
  }
  noa_value *output = noa_set(noa_object(), "config", noa_config());
  noa_set(output, "epochMs", noa_from_number((double)noa_now()));
  return noa_set(output, "random", random);
}
