/* How long lists of tiles can become, before they are made. */
#ifndef DA_BLOCK_SPARSE_LISTS_H
#define DA_BLOCK_SPARSE_LISTS_H

#include "attention/block_sparse/patterns.h"

/* Of all sequences that a list has. The largest sizes stand for what no memory holds. */
typedef struct da_list_sizes {
    size_t rows, tiles; /* tiles: at most */
} da_list_sizes;

/* For batch (the problem's, or 1) and heads (the problem's, or 1, of which all are alike) of a configuration that does not
 * take a mask. Where a target, and so the data, decides how many are kept, these are all. n is known. */
da_list_sizes da_sparse_list_sizes(const da_attention_config *config, const da_problem *problem, int64_t batch,
                                   int64_t heads);

/* Bytes that such lists are allocated with (da_tiles). */
size_t da_sparse_list_bytes(const da_list_sizes *sizes);

/* count * size, and a sum of sizes: the largest number where they do not fit. */
size_t da_sparse_product(size_t count, size_t size);
size_t da_sparse_sum(size_t a, size_t b);

#endif
