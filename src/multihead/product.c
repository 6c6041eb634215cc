#include "multihead/product.h"

#include <cblas.h>

void da_product(da_dtype real, da_product_form form, int64_t m, int64_t n, int64_t k, da_matrix a, da_matrix b,
                bool accumulate, void *c, int64_t ldc) {
    CBLAS_TRANSPOSE of_a = form == DA_PRODUCT_A_TRANSPOSED ? CblasTrans : CblasNoTrans;
    CBLAS_TRANSPOSE of_b = form == DA_PRODUCT_B_TRANSPOSED ? CblasTrans : CblasNoTrans;
    if (real == DA_F64) {
        cblas_dgemm(CblasRowMajor, of_a, of_b, (int)m, (int)n, (int)k, 1.0, a.data, (int)a.ld, b.data, (int)b.ld,
                    accumulate ? 1.0 : 0.0, c, (int)ldc);
    } else {
        cblas_sgemm(CblasRowMajor, of_a, of_b, (int)m, (int)n, (int)k, 1.0F, a.data, (int)a.ld, b.data, (int)b.ld,
                    accumulate ? 1.0F : 0.0F, c, (int)ldc);
    }
}
