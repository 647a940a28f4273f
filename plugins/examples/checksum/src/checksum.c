/* CRC-32 (the one of zip and PNG, ISO 3309) and the Levenshtein distance of texts. */
#include <noa.h>

static uint32_t crc32(noa_text text) {
  uint32_t sum = ~0u;
  for (size_t i = 0; i < text.length; i += 1) {
    sum ^= (unsigned char)text.at[i];
    for (int bit = 0; bit < 8; bit += 1) sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
  }
  return ~sum;
}

NOA_EXPORT(crc32, input) {
  noa_text text = noa_string(noa_get(input, "text"));
  uint32_t sum = crc32(text);
  char *hex = noa_alloc(8);
  for (int i = 0; i < 8; i += 1) hex[i] = "0123456789abcdef"[sum >> (28 - 4 * i) & 15];
  noa_value *output = noa_set_text(noa_object(), "crc32", (noa_text){hex, 8});
  return noa_set(output, "bytes", noa_from_number((double)text.length));
}

/* The characters of a text of UTF-8, one a word: `count` becomes how many. */
static uint32_t *characters(noa_text text, size_t *count) {
  uint32_t *made = noa_alloc(text.length * sizeof(uint32_t));
  *count = 0;
  for (size_t i = 0; i < text.length; i += 1) {
    unsigned char byte = (unsigned char)text.at[i];
    if ((byte & 0xc0) == 0x80) made[*count - 1] = made[*count - 1] << 6 | (byte & 0x3f);
    else made[(*count)++] = byte;
  }
  return made;
}

/* One row of the table at a time: `row[j]` is the distance of a's first i characters to b's first j. */
NOA_EXPORT(distance, input) {
  size_t rows, columns;
  uint32_t *a = characters(noa_string(noa_get(input, "a")), &rows);
  uint32_t *b = characters(noa_string(noa_get(input, "b")), &columns);
  uint32_t *row = noa_alloc((columns + 1) * sizeof(uint32_t));
  for (size_t j = 0; j <= columns; j += 1) row[j] = (uint32_t)j;
  for (size_t i = 0; i < rows; i += 1) {
    uint32_t diagonal = row[0];
    row[0] = (uint32_t)i + 1;
    for (size_t j = 0; j < columns; j += 1) {
      uint32_t change = diagonal + (a[i] != b[j]);
      uint32_t insert = row[j] + 1, drop = row[j + 1] + 1;
      diagonal = row[j + 1];
      uint32_t least = insert < drop ? insert : drop;
      row[j + 1] = change < least ? change : least;
    }
  }
  return noa_set(noa_object(), "distance", noa_from_number(row[columns]));
}
