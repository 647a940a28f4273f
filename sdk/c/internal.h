/* What the files of the SDK share. Not for plugins. */
#ifndef NOA_INTERNAL_H
#define NOA_INTERNAL_H

#include "noa.h"

struct noa_value {
  noa_kind kind;
  union {
    bool truth;
    noa_text text; /* Of a string; of a number its JSON, so that one passed on stays what it is. */
    struct {
      noa_item *first, *last;
    } items;
  };
};

noa_value *noa__value(noa_kind kind);
noa_item *noa__append(noa_value *holder, noa_text name, noa_value *value);
void noa__reset_arena(void);

double noa__number_of(noa_text json);
noa_text noa__number_text(double number);

#endif
