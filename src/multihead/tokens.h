/* Which tokens of the sequence the rows of a call are: all of them, or, over several ranks, this rank's part. Position
 * encodings and key lengths go by it. */
#ifndef DA_MULTIHEAD_TOKENS_H
#define DA_MULTIHEAD_TOKENS_H

#include "pattern/layout.h"

typedef struct da_tokens {
    int64_t n;         /* of the whole sequence */
    int64_t rows;      /* of the call's tensors, for each batch element */
    da_layout *layout; /* NULL: the rows are the tokens */
    const da_part *part;
} da_tokens;

/* All n tokens of a sequence. */
static inline da_tokens da_tokens_whole(int64_t n) {
    return (da_tokens){.n = n, .rows = n};
}

/* Collective: every rank says how many rows it has. Errors: DA_ERROR_INVALID_ARGUMENT (they are not those of the
 * partition), DA_ERROR_COMMUNICATION, DA_ERROR_OUT_OF_MEMORY. */
da_status da_tokens_of_rank(da_tokens *out, const da_context *context, da_partition partition, int64_t stripe,
                            int64_t rows);

void da_tokens_end(da_tokens *tokens);

/* The position of a row numbered among those of all batch elements. */
static inline int64_t da_tokens_position(const da_tokens *tokens, int64_t row) {
    int64_t i = row % tokens->rows;
    return tokens->part ? da_part_position(tokens->part, i) : i;
}

#endif
