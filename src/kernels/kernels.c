#include "kernels/kernels.h"

extern const da_kernels da_kernels_portable_f32, da_kernels_portable_f64;
#if defined(DA_HAVE_AVX2_KERNELS)
extern const da_kernels da_kernels_avx2_f32, da_kernels_avx2_f64;
#endif
#if defined(DA_HAVE_AVX512_KERNELS)
extern const da_kernels da_kernels_avx512_f32, da_kernels_avx512_f64;
#endif
#if defined(DA_HAVE_AVX512BF16_KERNELS)
extern const da_kernels da_kernels_avx512bf16_bf16;
#endif
#if defined(DA_HAVE_AMX_KERNELS)
extern const da_kernels da_kernels_amx_bf16;
#endif

#if defined(DA_HAVE_NEON_KERNELS)
extern const da_kernels da_kernels_neon_f32, da_kernels_neon_f64;
#endif

/* The tables of an instruction set: for f32 and f16, for f64, for bf16. */
typedef struct isa_kernels {
    da_isa isa;
    const da_kernels *f32, *f64, *bf16;
} isa_kernels;

static const isa_kernels tables[] = {
    {DA_ISA_PORTABLE, &da_kernels_portable_f32, &da_kernels_portable_f64, &da_kernels_portable_f32},
#if defined(DA_HAVE_AVX2_KERNELS)
    {DA_ISA_AVX2, &da_kernels_avx2_f32, &da_kernels_avx2_f64, &da_kernels_avx2_f32},
#endif
#if defined(DA_HAVE_AVX512_KERNELS)
    {DA_ISA_AVX512, &da_kernels_avx512_f32, &da_kernels_avx512_f64, &da_kernels_avx512_f32},
#endif
#if defined(DA_HAVE_AVX512BF16_KERNELS)
    {DA_ISA_AVX512_BF16, &da_kernels_avx512_f32, &da_kernels_avx512_f64, &da_kernels_avx512bf16_bf16},
#endif
#if defined(DA_HAVE_AMX_KERNELS)
    {DA_ISA_AMX_BF16, &da_kernels_avx512_f32, &da_kernels_avx512_f64, &da_kernels_amx_bf16},
#endif
#if defined(DA_HAVE_NEON_KERNELS)
    {DA_ISA_NEON, &da_kernels_neon_f32, &da_kernels_neon_f64, &da_kernels_neon_f32},
#endif
};

const da_kernels *da_kernels_for(da_isa isa, da_dtype dtype) {
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) {
        if (tables[k].isa == isa) {
            return dtype == DA_F64 ? tables[k].f64 : dtype == DA_BF16 ? tables[k].bf16 : tables[k].f32;
        }
    }
    return NULL;
}

const da_kernels *da_kernels_for_dropout(da_isa isa, da_dtype dtype) {
    return da_kernels_for(isa, dtype == DA_F64 ? DA_F64 : DA_F32);
}

const da_kernels *da_kernels_for_backward(da_isa isa, da_dtype dtype, bool drops) {
    const da_kernels *own = da_kernels_for(isa, dtype);
    return own->attend_backward && !drops ? own : da_kernels_for_dropout(isa, dtype);
}

bool da_kernels_built(da_isa isa) {
    return da_kernels_for(isa, DA_F32) != NULL;
}
