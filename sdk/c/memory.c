/* The arena, text, and the functions that a compiler expects to find in every C program. */
#include <stdarg.h>

#include "internal.h"

#define PAGE 65536
/* Up to so many bytes a loop is faster than a bulk operation, for which an engine leaves its code. */
#define SMALL 64

/* The linker's: where the memory that it gave to nothing begins. */
extern unsigned char __heap_base;
static uintptr_t top;

void noa__reset_arena(void) { top = ((uintptr_t)&__heap_base + 7) & ~(uintptr_t)7; }

void *noa_alloc(size_t length) {
  size_t size = (length + 7) & ~(size_t)7;
  size_t held = (size_t)__builtin_wasm_memory_size(0) * PAGE;
  if (size < length || size > UINTPTR_MAX - top) __builtin_trap();
  if (top + size > held) {
    size_t pages = (top + size - held + PAGE - 1) / PAGE;
    if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) __builtin_trap();
  }
  void *made = (void *)top;
  top += size;
  if (size > SMALL) return __builtin_memset(made, 0, size);
  for (uint64_t *word = made; (uintptr_t)word < top; word += 1) *word = 0;
  return made;
}

size_t noa_mark(void) { return top; }

void noa_rewind(size_t mark) { top = mark; }

noa_text noa_str(const char *string) {
  size_t length = 0;
  while (string[length] != 0) length += 1;
  return (noa_text){string, length};
}

bool noa_equal(noa_text a, noa_text b) {
  if (a.length != b.length) return false;
  for (size_t i = 0; i < a.length; i += 1) {
    if (a.at[i] != b.at[i]) return false;
  }
  return true;
}

static noa_text unsigned_text(uint64_t number, bool negative) {
  char *end = (char *)noa_alloc(24) + 24, *at = end;
  do *--at = (char)('0' + number % 10);
  while ((number /= 10) != 0);
  if (negative) *--at = '-';
  return (noa_text){at, (size_t)(end - at)};
}

static noa_text joined(noa_text a, noa_text b) {
  if (a.length == 0) return b;
  char *made = noa_alloc(a.length + b.length);
  __builtin_memcpy(made, a.at, a.length);
  __builtin_memcpy(made + a.length, b.at, b.length);
  return (noa_text){made, a.length + b.length};
}

noa_text noa_format(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  noa_text out = {0};
  for (const char *at = format; *at != 0; at += 1) {
    const char *start = at;
    while (*at != 0 && *at != '%') at += 1;
    out = joined(out, (noa_text){start, (size_t)(at - start)});
    if (*at == 0) break;
    at += 1;
    if (*at == 's') out = joined(out, noa_str(va_arg(arguments, const char *)));
    else if (*at == 't') out = joined(out, va_arg(arguments, noa_text));
    else if (*at == 'f') out = joined(out, noa__number_text(va_arg(arguments, double)));
    else if (*at == 'u') out = joined(out, unsigned_text(va_arg(arguments, uint64_t), false));
    else if (*at == 'd') {
      int64_t number = va_arg(arguments, int);
      out = joined(out, unsigned_text((uint64_t)(number < 0 ? -number : number), number < 0));
    } else if (*at == '%') out = joined(out, noa_str("%"));
    else noa_abort(noa_str("noa_format: an unknown conversion"));
  }
  va_end(arguments);
  return out;
}

/* With bulk memory operations the compiler makes single instructions of these; nothing calls itself. */
#define WEAK __attribute__((weak))
WEAK void *memcpy(void *to, const void *from, size_t n) { return __builtin_memcpy(to, from, n); }
WEAK void *memmove(void *to, const void *from, size_t n) { return __builtin_memmove(to, from, n); }
WEAK void *memset(void *to, int byte, size_t n) { return __builtin_memset(to, byte, n); }
WEAK int memcmp(const void *a, const void *b, size_t n) {
  const unsigned char *x = a, *y = b;
  for (size_t i = 0; i < n; i += 1) {
    if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
  }
  return 0;
}
WEAK size_t strlen(const char *string) { return noa_str(string).length; }
