#include "multihead/product.h"

#include <cblas.h>
#include <pthread.h>

#include "core/compiler.h"
#include "multihead/product_onednn.h"

/* OpenBLAS without threads of its own (0) may also be built without locks: then it does not bear being called by two
 * threads at once, and Debian's does not. Absent from other libraries. */
WEAK int openblas_get_parallel(void);

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static bool bears_threads(void) {
    return !openblas_get_parallel || openblas_get_parallel() != 0;
}

static void multiply(da_dtype real, da_product_form form, const int64_t size[3], da_matrix a, da_matrix b,
                     bool accumulate, void *c, int64_t ldc) {
    CBLAS_TRANSPOSE of_a = form == DA_PRODUCT_A_TRANSPOSED ? CblasTrans : CblasNoTrans;
    CBLAS_TRANSPOSE of_b = form == DA_PRODUCT_B_TRANSPOSED ? CblasTrans : CblasNoTrans;
    int m = (int)size[0], n = (int)size[1], k = (int)size[2], lda = (int)a.ld, ldb = (int)b.ld;
    if (real == DA_F64) {
        cblas_dgemm(CblasRowMajor, of_a, of_b, m, n, k, 1.0, a.data, lda, b.data, ldb, accumulate ? 1.0 : 0.0, c,
                    (int)ldc);
    } else {
        cblas_sgemm(CblasRowMajor, of_a, of_b, m, n, k, 1.0F, a.data, lda, b.data, ldb, accumulate ? 1.0F : 0.0F, c,
                    (int)ldc);
    }
}

void da_product(da_dtype real, da_product_form form, int64_t m, int64_t n, int64_t k, da_matrix a, da_matrix b,
                bool accumulate, void *c, int64_t ldc) {
    const int64_t size[3] = {m, n, k};
    if (real == DA_F32 && da_onednn_f32(form, size, a, b, accumulate, c, ldc)) {
        return;
    }
    bool alone = !bears_threads();
    if (alone) {
        pthread_mutex_lock(&one_at_a_time);
    }
    multiply(real, form, size, a, b, accumulate, c, ldc);
    if (alone) {
        pthread_mutex_unlock(&one_at_a_time);
    }
}
