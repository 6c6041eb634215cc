/* What oneDNN computes of the products, where the build found it. It chooses its code by what the CPU can do, also of a
 * CPU that is newer than the library, and has products of bf16 matrices. Each call stays on its thread, as the BLAS's
 * do. */
#ifndef DA_MULTIHEAD_PRODUCT_ONEDNN_H
#define DA_MULTIHEAD_PRODUCT_ONEDNN_H

#include "multihead/product.h"

/* c = the product, or c + the product, as da_product computes it in f32. False if there is no oneDNN, or if it failed:
 * c is then undefined (as it was, where there is none). */
bool da_onednn_f32(da_product_form form, const int64_t size[3], da_matrix a, da_matrix b, bool accumulate, float *c,
                   int64_t ldc);

/* True if there are products of bf16 matrices here: the CPU must have the instructions. */
bool da_onednn_takes_bf16(void);

/* c (m, n; f32) = a b^T; a (m, k) and b (n, k) are bf16, as they are: exact products, summed in f32. False if it could
 * not be computed (memory, sizes): c is then undefined. */
bool da_onednn_bf16(int64_t m, int64_t n, int64_t k, da_matrix a, da_matrix b, float *c, int64_t ldc);

#endif
