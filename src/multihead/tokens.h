/* Which tokens of the sequence the rows of a call are: all of them, or, over several ranks, this rank's part. Position
 * encodings and key lengths go by it. */
#ifndef DA_MULTIHEAD_TOKENS_H
#define DA_MULTIHEAD_TOKENS_H

#include "dilated_attention.h"

typedef struct da_tokens {
    int64_t n;    /* of the whole sequence */
    int64_t rows; /* of the call's tensors, for each batch element */
    /* How they lie in the sequence: from `first` on; or, over several ranks, as a partition other than contiguous says. */
    int64_t first;
    da_partition partition;
    int64_t stripe;
    int rank, ranks;
} da_tokens;

/* All n tokens of a sequence. */
static inline da_tokens da_tokens_whole(int64_t n) {
    return (da_tokens){.n = n, .rows = n};
}

/* Collective: every rank says how many rows it has. Errors: DA_ERROR_INVALID_ARGUMENT (they are not those of the
 * partition), DA_ERROR_COMMUNICATION, DA_ERROR_OUT_OF_MEMORY. */
da_status da_tokens_of_rank(da_tokens *out, const da_context *context, da_partition partition, int64_t stripe,
                            int64_t rows);

/* The position of a row numbered among those of all batch elements. */
int64_t da_tokens_position(const da_tokens *tokens, int64_t row);

#endif
