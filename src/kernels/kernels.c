#include "kernels/kernels.h"

extern const da_kernels da_kernels_portable_f32, da_kernels_portable_f64;
#if defined(DA_HAVE_AVX2_KERNELS)
extern const da_kernels da_kernels_avx2_f32, da_kernels_avx2_f64;
#endif
#if defined(DA_HAVE_AVX512_KERNELS)
extern const da_kernels da_kernels_avx512_f32, da_kernels_avx512_f64;
#endif

static const da_kernels *const tables[][2] = {
    {&da_kernels_portable_f32, &da_kernels_portable_f64},
#if defined(DA_HAVE_AVX2_KERNELS)
    {&da_kernels_avx2_f32, &da_kernels_avx2_f64},
#endif
#if defined(DA_HAVE_AVX512_KERNELS)
    {&da_kernels_avx512_f32, &da_kernels_avx512_f64},
#endif
};

const da_kernels *da_kernels_for(da_isa isa, da_dtype dtype) {
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) {
        if (tables[k][0]->isa == isa) {
            return tables[k][dtype == DA_F64];
        }
    }
    return NULL;
}

bool da_kernels_built(da_isa isa) {
    return da_kernels_for(isa, DA_F32) != NULL;
}
