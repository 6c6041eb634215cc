#define DA_SIMD_AVX512 1
#define DA_REAL_IS_DOUBLE 0
#define DA_KERNELS_ISA DA_ISA_AVX512
#define DA_KERNELS_NAME da_kernels_avx512_f32
#include "kernels/attend.inc.h"
