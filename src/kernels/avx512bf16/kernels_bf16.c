#define DA_SIMD_AVX512 1
#define DA_REAL_IS_DOUBLE 0
#define DA_PRODUCTS "kernels/avx512bf16/products_bf16.inc.h"
#define DA_KERNELS_ISA DA_ISA_AVX512_BF16
#define DA_KERNELS_NAME da_kernels_avx512bf16_bf16
#include "kernels/attend.inc.h"
