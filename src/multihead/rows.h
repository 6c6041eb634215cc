/* Rows of a sequence: the tokens of (batch, n, 1, width) tensors, numbered 0 .. batch n - 1, some hundreds of which are
 * a matrix for a product. */
#ifndef DA_MULTIHEAD_ROWS_H
#define DA_MULTIHEAD_ROWS_H

#include "multihead/product.h"

/* Rows that are taken at a time. Fixed, so that a result does not depend on who computes it. */
#define DA_ROW_BLOCK 256

static inline int64_t da_row_blocks(int64_t rows) {
    return (rows + DA_ROW_BLOCK - 1) / DA_ROW_BLOCK;
}

/* Rows first .. first + count - 1 as a matrix in the real type: the tensor's own memory where it can be that, otherwise
 * converted into scratch (count x width). */
da_matrix da_rows_load(const da_tensor *tensor, int64_t first, int64_t count, da_dtype real, void *scratch);

/* The same, always into target. */
void da_rows_copy(const da_tensor *tensor, int64_t first, int64_t count, da_dtype real, void *target);

/* The tensor's own memory of those rows, as a matrix in the real type to write to; false if it cannot be that. */
bool da_rows_direct(const da_tensor *tensor, int64_t first, int64_t count, da_dtype real, void **data, int64_t *ld);

/* Writes rows from a matrix in the real type. */
void da_rows_store(const da_tensor *tensor, int64_t first, int64_t count, da_dtype real, da_matrix source);

/* True if both are the same elements of memory. */
bool da_rows_same(const da_tensor *a, const da_tensor *b);

#endif
