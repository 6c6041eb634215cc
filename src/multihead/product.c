#include "multihead/product.h"

#include <cblas.h>
#include <pthread.h>

#include "core/compiler.h"

/* OpenBLAS without threads of its own (0) may also be built without locks: then it does not bear being called by two
 * threads at once, and Debian's does not. Absent from other libraries. */
WEAK int openblas_get_parallel(void);

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static bool bears_threads(void) {
    return !openblas_get_parallel || openblas_get_parallel() != 0;
}

static void multiply(da_dtype real, CBLAS_TRANSPOSE of_a, CBLAS_TRANSPOSE of_b, const int sizes[3], da_matrix a,
                     da_matrix b, bool accumulate, void *c, int ldc) {
    int m = sizes[0], n = sizes[1], k = sizes[2];
    if (real == DA_F64) {
        cblas_dgemm(CblasRowMajor, of_a, of_b, m, n, k, 1.0, a.data, (int)a.ld, b.data, (int)b.ld,
                    accumulate ? 1.0 : 0.0, c, ldc);
    } else {
        cblas_sgemm(CblasRowMajor, of_a, of_b, m, n, k, 1.0F, a.data, (int)a.ld, b.data, (int)b.ld,
                    accumulate ? 1.0F : 0.0F, c, ldc);
    }
}

void da_product(da_dtype real, da_product_form form, int64_t m, int64_t n, int64_t k, da_matrix a, da_matrix b,
                bool accumulate, void *c, int64_t ldc) {
    const int sizes[3] = {(int)m, (int)n, (int)k};
    bool alone = !bears_threads();
    if (alone) {
        pthread_mutex_lock(&one_at_a_time);
    }
    multiply(real, form == DA_PRODUCT_A_TRANSPOSED ? CblasTrans : CblasNoTrans,
             form == DA_PRODUCT_B_TRANSPOSED ? CblasTrans : CblasNoTrans, sizes, a, b, accumulate, c, (int)ldc);
    if (alone) {
        pthread_mutex_unlock(&one_at_a_time);
    }
}
