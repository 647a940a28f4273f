/* JSON values: making, reading and writing them. */
#include "internal.h"

noa_value *noa__value(noa_kind kind) {
  noa_value *value = noa_alloc(sizeof(noa_value));
  value->kind = kind;
  return value;
}

noa_item *noa__append(noa_value *holder, noa_text name, noa_value *value) {
  noa_item *item = noa_alloc(sizeof(noa_item));
  *item = (noa_item){name, value ? value : noa_null(), NULL};
  if (holder->items.last == NULL) holder->items.first = item;
  else holder->items.last->next = item;
  holder->items.last = item;
  return item;
}

noa_kind noa_kind_of(const noa_value *value) { return value ? value->kind : NOA_NULL; }

noa_item *noa_first(const noa_value *value) {
  noa_kind kind = noa_kind_of(value);
  return kind == NOA_ARRAY || kind == NOA_OBJECT ? value->items.first : NULL;
}

size_t noa_count(const noa_value *value) {
  size_t count = 0;
  for (noa_item *item = noa_first(value); item; item = item->next) count += 1;
  return count;
}

/* Of members with one name the last counts. */
static noa_item *member(const noa_value *value, noa_text name) {
  noa_item *found = NULL;
  if (noa_kind_of(value) != NOA_OBJECT) return NULL;
  for (noa_item *item = noa_first(value); item; item = item->next) {
    if (noa_equal(item->name, name)) found = item;
  }
  return found;
}

noa_value *noa_get(const noa_value *value, const char *name) {
  noa_item *item = member(value, noa_str(name));
  return item ? item->value : NULL;
}

noa_value *noa_at(const noa_value *value, size_t index) {
  noa_item *item = noa_kind_of(value) == NOA_ARRAY ? noa_first(value) : NULL;
  while (item != NULL && index-- > 0) item = item->next;
  return item ? item->value : NULL;
}

noa_text noa_string(const noa_value *value) {
  return noa_kind_of(value) == NOA_STRING ? value->text : (noa_text){0};
}

double noa_number(const noa_value *value) {
  return noa_kind_of(value) == NOA_NUMBER ? noa__number_of(value->text) : 0;
}

bool noa_bool(const noa_value *value) { return noa_kind_of(value) == NOA_BOOL && value->truth; }

noa_value *noa_null(void) { return noa__value(NOA_NULL); }

noa_value *noa_from_bool(bool truth) {
  noa_value *value = noa__value(NOA_BOOL);
  value->truth = truth;
  return value;
}

noa_value *noa_from_number(double number) {
  noa_text text = noa__number_text(number);
  if (text.length == 0) return noa_null();
  noa_value *value = noa__value(NOA_NUMBER);
  value->text = text;
  return value;
}

noa_value *noa_from_text(noa_text text) {
  noa_value *value = noa__value(NOA_STRING);
  value->text = text;
  return value;
}

noa_value *noa_from_string(const char *string) { return noa_from_text(noa_str(string)); }
noa_value *noa_array(void) { return noa__value(NOA_ARRAY); }
noa_value *noa_object(void) { return noa__value(NOA_OBJECT); }

noa_value *noa_push(noa_value *array, noa_value *item) {
  if (noa_kind_of(array) != NOA_ARRAY) noa_abort(noa_str("noa_push: not an array"));
  noa__append(array, (noa_text){0}, item);
  return array;
}

noa_value *noa_set(noa_value *object, const char *name, noa_value *value) {
  if (noa_kind_of(object) != NOA_OBJECT) noa_abort(noa_str("noa_set: not an object"));
  noa_item *item = member(object, noa_str(name));
  if (item == NULL) noa__append(object, noa_str(name), value);
  else item->value = value ? value : noa_null();
  return object;
}

noa_value *noa_set_text(noa_value *object, const char *name, noa_text text) {
  return noa_set(object, name, noa_from_text(text));
}

/* ---- Writing: once to measure, with nowhere to write to, and once to write. ---- */

typedef struct {
  char *at;
  size_t length;
} sink;

static void byte(sink *out, char value) {
  if (out->at != NULL) out->at[out->length] = value;
  out->length += 1;
}

static void bytes(sink *out, noa_text text) {
  if (out->at != NULL) {
    char *to = out->at + out->length;
    if (text.length > 64) __builtin_memcpy(to, text.at, text.length);
    else for (size_t i = 0; i < text.length; i += 1) to[i] = text.at[i];
  }
  out->length += text.length;
}

static void string(sink *out, noa_text text) {
  static const char hex[] = "0123456789abcdef";
  byte(out, '"');
  size_t plain = 0;
  for (size_t i = 0; i < text.length; i += 1) {
    unsigned char value = (unsigned char)text.at[i];
    if (value >= 0x20 && value != '"' && value != '\\') continue;
    bytes(out, (noa_text){text.at + plain, i - plain});
    plain = i + 1;
    byte(out, '\\');
    if (value >= 0x20) {
      byte(out, (char)value);
    } else {
      bytes(out, noa_str("u00"));
      byte(out, hex[value >> 4]);
      byte(out, hex[value & 15]);
    }
  }
  bytes(out, (noa_text){text.at + plain, text.length - plain});
  byte(out, '"');
}

static void write(sink *out, const noa_value *value) {
  noa_kind kind = noa_kind_of(value);
  switch (kind) {
    case NOA_NULL: bytes(out, noa_str("null")); return;
    case NOA_BOOL: bytes(out, noa_str(value->truth ? "true" : "false")); return;
    case NOA_NUMBER: bytes(out, value->text); return;
    case NOA_STRING: string(out, value->text); return;
    case NOA_ARRAY:
    case NOA_OBJECT: break;
  }
  byte(out, kind == NOA_ARRAY ? '[' : '{');
  for (noa_item *item = noa_first(value); item; item = item->next) {
    if (item != noa_first(value)) byte(out, ',');
    if (kind == NOA_OBJECT) {
      string(out, item->name);
      byte(out, ':');
    }
    write(out, item->value);
  }
  byte(out, kind == NOA_ARRAY ? ']' : '}');
}

noa_text noa_write(const noa_value *value) {
  sink measure = {0};
  write(&measure, value);
  sink out = {noa_alloc(measure.length), 0};
  write(&out, value);
  return (noa_text){out.at, out.length};
}
