/*
 * Between 64-bit floats (IEEE 754) and decimal text, exactly: text becomes the nearest float, ties to
 * even, and a float becomes 15 to 17 digits that read back as the same float. Both go through integers
 * of any length, so there is one way for every number and no table.
 */
#include "internal.h"

/* 7,168 bits: 800 digits, shifted by what a division by 10^1124 needs. */
#define WORDS 224
/* No point halfway between two floats has more digits; whether there is more is all that counts. */
#define MAX_DIGITS 800

/* `word[0]` is the lowest; `more` says that the true value is above this by less than 1. */
typedef struct {
  uint32_t word[WORDS];
  int length;
  bool more;
} integer;

static void multiply_add(integer *big, uint32_t factor, uint32_t addend) {
  uint64_t carry = addend;
  for (int i = 0; i < big->length; i += 1) {
    carry += (uint64_t)big->word[i] * factor;
    big->word[i] = (uint32_t)carry;
    carry >>= 32;
  }
  if (carry != 0) big->word[big->length++] = (uint32_t)carry;
}

static void divide(integer *big, uint32_t divisor) {
  uint64_t rest = 0;
  for (int i = big->length - 1; i >= 0; i -= 1) {
    rest = (rest << 32) | big->word[i];
    big->word[i] = (uint32_t)(rest / divisor);
    rest %= divisor;
  }
  if (rest != 0) big->more = true;
  while (big->length > 0 && big->word[big->length - 1] == 0) big->length -= 1;
}

static int bits_of(const integer *big) {
  if (big->length == 0) return 0;
  return big->length * 32 - __builtin_clz(big->word[big->length - 1]);
}

static bool bit(const integer *big, int at) {
  return at >= 0 && at / 32 < big->length && (big->word[at / 32] >> (at % 32) & 1) != 0;
}

/* Multiplies by a power of ten. Answers a power of two by which the result is still to be multiplied. */
static int scale(integer *big, int power) {
  for (; power >= 9; power -= 9) multiply_add(big, 1000000000, 0);
  for (; power > 0; power -= 1) multiply_add(big, 10, 0);
  if (power == 0) return 0;
  /* log2(10) < 10/3; 66 bits of the quotient are more than any use of it needs. */
  int words = (66 + -power * 10 / 3 + 1) / 32 + 1;
  for (int i = big->length - 1; i >= 0; i -= 1) big->word[i + words] = big->word[i];
  for (int i = 0; i < words; i += 1) big->word[i] = 0;
  big->length += words;
  for (; power <= -9; power += 9) divide(big, 1000000000);
  for (; power < 0; power += 1) divide(big, 10);
  return -words * 32;
}

/* The integer without its `drop` lowest bits, rounded to nearest, ties to even; at most 64 bits remain. */
static uint64_t rounded(const integer *big, int drop) {
  uint64_t kept = 0;
  for (int at = bits_of(big) - 1; at >= drop && at >= 0; at -= 1) kept = kept << 1 | bit(big, at);
  if (drop <= 0) return kept << -drop;
  bool rest = big->more;
  for (int at = 0; at < drop - 1 && !rest; at += 1) rest = bit(big, at);
  if (bit(big, drop - 1) && (rest || (kept & 1) != 0)) kept += 1;
  return kept;
}

static double from_bits(uint64_t bits) {
  double number;
  __builtin_memcpy(&number, &bits, sizeof number);
  return number;
}

/* `json` is a number by the grammar of JSON. */
double noa__number_of(noa_text json) {
  integer big = {.length = 0};
  const char *at = json.at, *end = json.at + json.length;
  uint64_t sign = *at == '-' ? 1ull << 63 : 0;
  int count = 0, exponent = 0;
  bool fraction = false;
  for (at += sign != 0; at < end && (*at | 0x20) != 'e'; at += 1) {
    if (*at == '.') {
      fraction = true;
      continue;
    }
    if (count == 0 && *at == '0') {
      exponent -= fraction;
      continue;
    }
    if (count < MAX_DIGITS) {
      uint32_t digit = (uint32_t)(*at - '0');
      if (big.length == 0) big.word[big.length++] = digit;
      else multiply_add(&big, 10, digit);
      count += 1;
      exponent -= fraction;
    } else {
      big.more |= *at != '0';
      exponent += !fraction;
    }
  }
  if (at < end) {
    bool down = *++at == '-';
    at += *at == '-' || *at == '+';
    int given = 0;
    for (; at < end; at += 1) given = given < 100000 ? given * 10 + *at - '0' : given;
    exponent += down ? -given : given;
  }
  if (count == 0 || count + exponent < -330) return from_bits(sign);
  if (count + exponent > 310) return from_bits(sign | 0x7ffull << 52);
  int power = scale(&big, exponent);
  int unit = bits_of(&big) + power - 53; /* The power of two that the last bit kept stands for. */
  if (unit < -1074) unit = -1074;
  uint64_t kept = rounded(&big, unit - power);
  if (kept == 1ull << 53) {
    kept >>= 1;
    unit += 1;
  }
  if (unit + 1075 >= 0x7ff) return from_bits(sign | 0x7ffull << 52);
  if (kept < 1ull << 52) return from_bits(sign | kept); /* Subnormal, or zero. */
  return from_bits(sign | (uint64_t)(unit + 1075) << 52 | (kept & ((1ull << 52) - 1)));
}

/* `mantissa * 2^binary` as `count` digits d and the power of ten of the first. */
static uint64_t digits_of(uint64_t mantissa, int binary, int count, int *decimal) {
  uint64_t limit = 1;
  for (int i = 0; i < count; i += 1) limit *= 10;
  /* log10(2) = 0.30103; the estimate is at most one off. */
  int estimate = (64 - __builtin_clzll(mantissa) - 1 + binary) * 30103 / 100000 - 1;
  for (*decimal = estimate;; *decimal += 1) {
    integer big = {.word = {(uint32_t)mantissa, (uint32_t)(mantissa >> 32)}, .length = 2};
    if (big.word[1] == 0) big.length = 1;
    for (int left = binary; left > 0; left -= 16) multiply_add(&big, 1u << (left < 16 ? left : 16), 0);
    int power = scale(&big, count - 1 - *decimal);
    int drop = -(power + (binary < 0 ? binary : 0));
    if (bits_of(&big) - drop > 60) continue;
    uint64_t digits = rounded(&big, drop);
    if (digits < limit) return digits;
  }
}

/* Empty for what JSON has no number for. */
noa_text noa__number_text(double number) {
  uint64_t bits;
  __builtin_memcpy(&bits, &number, sizeof bits);
  bool negative = bits >> 63 != 0;
  int exponent = (int)(bits >> 52 & 0x7ff);
  uint64_t mantissa = bits & ((1ull << 52) - 1);
  if (exponent == 0x7ff) return (noa_text){0};
  double size = negative ? -number : number;
  if (size < 9e15 && size == (double)(uint64_t)size) {
    return noa_format(negative ? "-%u" : "%u", (uint64_t)size);
  }
  if (exponent == 0) exponent = 1;
  else mantissa |= 1ull << 52;
  noa_text text = {0};
  for (int count = 15; count <= 17; count += 1) {
    int decimal;
    uint64_t digits = digits_of(mantissa, exponent - 1075, count, &decimal);
    int shown = count;
    for (; digits % 10 == 0; digits /= 10) shown -= 1;
    noa_text all = noa_format("%u", digits);
    noa_text first = {all.at, 1}, rest = {all.at + 1, all.length - 1};
    const char *sign = negative ? "-" : "";
    if (decimal >= 0 && decimal < shown - 1) {
      noa_text whole = {all.at, (size_t)decimal + 1};
      noa_text part = {all.at + decimal + 1, all.length - (size_t)decimal - 1};
      text = noa_format("%s%t.%t", sign, whole, part);
    } else if (decimal < 0 && decimal >= -6) {
      text = noa_format("%s0.%t%t", sign, (noa_text){"00000", (size_t)(-decimal - 1)}, all);
    } else {
      text = noa_format(shown == 1 ? "%s%t%te%d" : "%s%t.%te%d", sign, first, rest, decimal);
    }
    if (noa__number_of(text) == number) break;
  }
  return text;
}
