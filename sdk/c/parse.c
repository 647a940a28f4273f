/*
 * From JSON text to values: the whole of RFC 8259 and nothing besides, at most 128 levels deep. A string
 * without escapes is the bytes of the text itself. A lone surrogate becomes U+FFFD.
 */
#include "internal.h"

#define MAX_DEPTH 128

typedef struct {
  const char *at, *start, *end;
} reader;

static noa_value *value(reader *in, int depth);

static noa_value *wrong(reader *in, const char *rule) {
  noa_text message = noa_format("this is not JSON: %s (byte %d)", rule, (int)(in->at - in->start));
  return noa_fail("INVALID_ARGUMENT", message);
}

/* The next byte, -1 at the end. */
static int peek(reader *in) { return in->at < in->end ? (unsigned char)*in->at : -1; }

static void space(reader *in) {
  while (in->at < in->end && (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r')) {
    in->at += 1;
  }
}

/* Skips space and this byte, if it is the next. */
static bool next_is(reader *in, char byte) {
  space(in);
  if (peek(in) != byte) return false;
  in->at += 1;
  return true;
}

static noa_value *word(reader *in, const char *expected, noa_value *made) {
  noa_text text = noa_str(expected);
  if ((size_t)(in->end - in->at) < text.length || !noa_equal((noa_text){in->at, text.length}, text)) {
    return wrong(in, "no value begins like this");
  }
  in->at += text.length;
  return made;
}

static bool digits(reader *in) {
  const char *start = in->at;
  while (in->at < in->end && *in->at >= '0' && *in->at <= '9') in->at += 1;
  return in->at > start;
}

static noa_value *number(reader *in) {
  const char *start = in->at;
  if (peek(in) == '-') in->at += 1;
  bool good = true;
  if (peek(in) == '0') in->at += 1;
  else good = digits(in);
  if (good && peek(in) == '.') {
    in->at += 1;
    good = digits(in);
  }
  if (good && (peek(in) == 'e' || peek(in) == 'E')) {
    in->at += 1;
    if (peek(in) == '+' || peek(in) == '-') in->at += 1;
    good = digits(in);
  }
  if (!good) return wrong(in, "a digit is missing");
  noa_value *made = noa__value(NOA_NUMBER);
  made->text = (noa_text){start, (size_t)(in->at - start)};
  return made;
}

/* Four hexadecimal digits at `at`; -1 when there are none. */
static int32_t unit(reader *in, const char *at) {
  int32_t sum = 0;
  if (in->end - at < 4) return -1;
  for (int i = 0; i < 4; i += 1) {
    char digit = at[i];
    int lower = digit | 0x20;
    if (digit >= '0' && digit <= '9') sum = sum * 16 + digit - '0';
    else if (lower >= 'a' && lower <= 'f') sum = sum * 16 + lower - 'a' + 10;
    else return -1;
  }
  return sum;
}

static char *utf8(char *out, uint32_t point) {
  if (point < 0x80) {
    *out++ = (char)point;
    return out;
  }
  int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
  *out++ = (char)((0xf0 << (3 - more)) | (point >> (6 * more)));
  while (more-- > 0) *out++ = (char)(0x80 | ((point >> (6 * more)) & 0x3f));
  return out;
}

/* One escape from its backslash on; NULL when there is no such escape. */
static char *escape(reader *in, char *out) {
  static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  in->at += 1;
  for (int i = 0; names[i] != 0; i += 1) {
    if (peek(in) != names[i]) continue;
    in->at += 1;
    *out++ = values[i];
    return out;
  }
  int32_t first = peek(in) == 'u' ? unit(in, in->at + 1) : -1;
  if (first < 0) return NULL;
  in->at += 5;
  if (first >> 11 != 0xd800 >> 11) return utf8(out, (uint32_t)first);
  bool paired = first < 0xdc00 && in->end - in->at >= 6 && in->at[0] == '\\' && in->at[1] == 'u';
  int32_t second = paired ? unit(in, in->at + 2) : -1;
  if (second >> 10 != 0xdc00 >> 10) return utf8(out, 0xfffd);
  in->at += 6;
  return utf8(out, 0x10000 + ((uint32_t)(first - 0xd800) << 10) + (uint32_t)(second - 0xdc00));
}

/* False with the error when it is wrong. */
static bool string(reader *in, noa_text *text) {
  const char *start = in->at += 1;
  bool escapes = false;
  for (; peek(in) != '"'; in->at += 1) {
    if (peek(in) < 0x20) {
      wrong(in, peek(in) < 0 ? "a string has no end" : "control characters are written as escapes");
      return false;
    }
    if (peek(in) != '\\') continue;
    escapes = true;
    in->at += 1;
  }
  const char *end = in->at;
  *text = (noa_text){start, (size_t)(end - start)};
  if (escapes) {
    char *made = noa_alloc(text->length), *out = made;
    for (in->at = start; in->at < end;) {
      if (*in->at != '\\') *out++ = *in->at++;
      else if ((out = escape(in, out)) == NULL) {
        wrong(in, "there is no such escape");
        return false;
      }
    }
    *text = (noa_text){made, (size_t)(out - made)};
  }
  in->at = end + 1;
  return true;
}

/* After the bracket. */
static noa_value *items(reader *in, int depth, noa_kind kind, char close) {
  noa_value *made = noa__value(kind);
  if (depth == MAX_DEPTH) return wrong(in, "at most 128 levels are allowed");
  if (next_is(in, close)) return made;
  for (;;) {
    noa_text name = {0};
    if (kind == NOA_OBJECT) {
      space(in);
      if (peek(in) != '"') return wrong(in, "a member begins with its name in quotes");
      if (!string(in, &name)) return NULL;
      if (!next_is(in, ':')) return wrong(in, "a name is followed by :");
    }
    noa_value *item = value(in, depth + 1);
    if (item == NULL) return NULL;
    noa__append(made, name, item);
    if (next_is(in, close)) return made;
    if (!next_is(in, ',')) return wrong(in, "an item is followed by a comma or the end");
  }
}

static noa_value *value(reader *in, int depth) {
  space(in);
  int byte = peek(in);
  noa_text text;
  switch (byte) {
    case '{': in->at += 1; return items(in, depth, NOA_OBJECT, '}');
    case '[': in->at += 1; return items(in, depth, NOA_ARRAY, ']');
    case '"': return string(in, &text) ? noa_from_text(text) : NULL;
    case 't': return word(in, "true", noa_from_bool(true));
    case 'f': return word(in, "false", noa_from_bool(false));
    case 'n': return word(in, "null", noa_null());
    default: break;
  }
  if (byte == '-' || (byte >= '0' && byte <= '9')) return number(in);
  return wrong(in, byte < 0 ? "a value is missing at the end" : "no value begins like this");
}

noa_value *noa_parse(noa_text json) {
  reader in = {json.at, json.at, json.at + json.length};
  noa_value *made = value(&in, 0);
  if (made == NULL) return NULL;
  space(&in);
  return peek(&in) < 0 ? made : wrong(&in, "nothing may follow the value");
}
