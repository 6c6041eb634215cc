#define DA_SIMD_AVX2 1
#define DA_REAL_IS_DOUBLE 1
#define DA_KERNELS_ISA DA_ISA_AVX2
#define DA_KERNELS_NAME da_kernels_avx2_f64
#include "kernels/attend.inc.h"
