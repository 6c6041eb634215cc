/* A da_comm around another that counts what this rank sends. */
#ifndef DA_COMM_COUNTED_H
#define DA_COMM_COUNTED_H

#include "dilated_attention.h"

typedef struct da_counted {
    da_comm inner;
    int64_t messages, bytes; /* sent point to point, without those of gather and reduce */
    int64_t collective_bytes;
} da_counted;

/* Makes the da_comm `out` around `inner`, with the library's own gather and reduce, so that they are counted too. `counted`
 * lives as long as `out` is used; there is nothing to free. */
void da_count_messages(da_counted *counted, const da_comm *inner, da_comm *out);

#endif
