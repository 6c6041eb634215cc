/* Products of bf16 matrices as they are, summed in f32, by oneDNN where the build found it and the CPU has the instructions.
 * They are exact products: nothing differs from conversion to f32 but the order of summation, and the time. */
#ifndef DA_MULTIHEAD_PRODUCT_BF16_H
#define DA_MULTIHEAD_PRODUCT_BF16_H

#include "multihead/product.h"

/* True if there are such products here. */
bool da_product_bf16_available(void);

/* c (m, n; f32) = a b^T; a (m, k) and b (n, k) are bf16. False if it could not be computed (memory, sizes): c is then
 * undefined. */
bool da_product_bf16(int64_t m, int64_t n, int64_t k, da_matrix a, da_matrix b, float *c, int64_t ldc);

#endif
