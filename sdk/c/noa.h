/*
 * Plugins for NOA in C. Freestanding: no libc, no WASI; any clang with the wasm32 target builds it.
 *
 * Everything that a call makes lives in one arena and is gone when the next call begins, so nothing is
 * freed; a plugin keeps across calls only what is in its own static variables. An error that is not
 * caught (noa_caught) reaches the caller with its own code.
 */
#ifndef NOA_H
#define NOA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* UTF-8 text. Not terminated: it may hold NUL like any other character. */
typedef struct {
  const char *at;
  size_t length;
} noa_text;

typedef struct {
  const uint8_t *at;
  size_t length;
} noa_bytes;

/* ---- Exports ----
 *
 *   NOA_EXPORT(greet, input) {
 *     return noa_set(noa_object(), "text", noa_format("Hello, %t!", noa_string(noa_get(input, "name"))));
 *   }
 *
 * is the export `greet` of the plugin. `input` is the value that the caller sent, null for none. The
 * function returns the output, or NULL with an error: `return noa_fail(…)`, or what a failed call left.
 */
#define NOA_EXPORT(name, input)                                          \
  static noa_value *noa_handle_##name(noa_value *input);                 \
  __attribute__((export_name(#name))) int32_t noa_export_##name(void) {  \
    return noa_run(noa_handle_##name);                                   \
  }                                                                      \
  static noa_value *noa_handle_##name(noa_value *input)

typedef struct noa_value noa_value;

int32_t noa_run(noa_value *(*handler)(noa_value *input));

/* ---- JSON values (RFC 8259) ---- */

typedef enum { NOA_NULL, NOA_BOOL, NOA_NUMBER, NOA_STRING, NOA_ARRAY, NOA_OBJECT } noa_kind;

/* An item of an array or a member of an object: for (noa_item *i = noa_first(v); i; i = i->next). */
typedef struct noa_item {
  noa_text name; /* Of a member. */
  noa_value *value;
  struct noa_item *next;
} noa_item;

/* All of these take NULL for null. */
noa_kind noa_kind_of(const noa_value *value);
noa_item *noa_first(const noa_value *value);               /* NULL when it holds nothing. */
size_t noa_count(const noa_value *value);                  /* Items or members. */
noa_value *noa_get(const noa_value *value, const char *name); /* NULL when there is no such member. */
noa_value *noa_at(const noa_value *value, size_t index);   /* NULL when there is no such item. */
noa_text noa_string(const noa_value *value);               /* Empty when it is no string. */
double noa_number(const noa_value *value);                 /* 0 when it is no number. */
bool noa_bool(const noa_value *value);                     /* False when it is not true. */

noa_value *noa_null(void);
noa_value *noa_from_bool(bool value);
noa_value *noa_from_number(double number); /* Null for NaN and infinities. */
noa_value *noa_from_text(noa_text text);   /* The text must last as long as the value; so below. */
noa_value *noa_from_string(const char *string);
noa_value *noa_array(void);
noa_value *noa_object(void);
/* Both answer their first argument. A value may be in several places, but not inside itself. */
noa_value *noa_push(noa_value *array, noa_value *item);
noa_value *noa_set(noa_value *object, const char *name, noa_value *value); /* Replaces. */
noa_value *noa_set_text(noa_value *object, const char *name, noa_text text);

noa_value *noa_parse(noa_text json); /* NULL with the error INVALID_ARGUMENT when it is not JSON. */
noa_text noa_write(const noa_value *value);

/* ---- Errors ---- */

/* Codes: INVALID_ARGUMENT, NOT_FOUND, CONFLICT, … (the table in the README). Always answers NULL. */
noa_value *noa_fail(const char *code, noa_text message);
noa_value *noa_fail_with(noa_text code, noa_text message, noa_value *details);
/* The error that the last NULL left, `{code, message, details?}`; it is caught. NULL when there is none. */
noa_value *noa_caught(void);
/* Ends the call with PLUGIN_TRAP and this message, for what can only be a bug. */
_Noreturn void noa_abort(noa_text message);

/* ---- The host ---- */

/* Calls an operation of a capability and answers its value; NULL with the host's error. */
noa_value *noa_call(const char *capability, const char *operation, noa_value *arguments);
/*
 * The same where one member of the arguments or of the value is bytes, which go beside the JSON.
 * `content` is what the member of the arguments holds, NULL for nothing; `answer`, if not NULL, becomes
 * what the member of the value holds.
 */
noa_value *noa_call_bytes(const char *capability, const char *operation, noa_value *arguments,
                          const char *member, const noa_bytes *content, noa_bytes *answer);

typedef enum { NOA_DEBUG, NOA_INFO, NOA_WARN, NOA_ERROR } noa_level;
void noa_log(noa_level level, noa_text line);
noa_value *noa_config(void);
uint64_t noa_now(void);    /* Milliseconds since 1970-01-01T00:00:00Z. */
uint64_t noa_random(void); /* 64 bits of the host's cryptographic source. */

/* ---- Memory and text ---- */

/* Zeroed, aligned to 8. Traps when the plugin's limit of memory is reached. */
void *noa_alloc(size_t length);
/* Gives back all that was made since the mark; for a loop that makes many calls. */
size_t noa_mark(void);
void noa_rewind(size_t mark);

noa_text noa_str(const char *string); /* Without its terminating NUL. */
bool noa_equal(noa_text a, noa_text b);
/* %s a C string, %t a noa_text, %d an int, %u a uint64_t, %f a double, %% a percent sign. */
noa_text noa_format(const char *format, ...);

#endif
