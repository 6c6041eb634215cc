/* Products of row-major matrices: the one place that knows the BLAS, and oneDNN where the build found it. */
#ifndef DA_MULTIHEAD_PRODUCT_H
#define DA_MULTIHEAD_PRODUCT_H

#include "dilated_attention.h"

/* Which operand is stored transposed. */
typedef enum da_product_form {
    DA_PRODUCT_PLAIN,        /* c = a b         a (m, k), b (k, n) */
    DA_PRODUCT_B_TRANSPOSED, /* c = a b^T       a (m, k), b (n, k): a linear layer's forward */
    DA_PRODUCT_A_TRANSPOSED  /* c = a^T b       a (k, m), b (k, n): a weight's gradient */
} da_product_form;

/* Sizes and leading dimensions of matrices must not exceed this: the BLAS counts in int. */
#define DA_PRODUCT_MAX_SIZE INT32_MAX

typedef struct da_matrix {
    const void *data;
    int64_t ld; /* elements from one row to the next */
} da_matrix;

/* c (m, n) = the product, or c + the product with `accumulate`. real is DA_F32 or DA_F64. One call of the library, on
 * the calling thread. */
void da_product(da_dtype real, da_product_form form, int64_t m, int64_t n, int64_t k, da_matrix a, da_matrix b,
                bool accumulate, void *c, int64_t ldc);

#endif
