#define DA_SIMD_NEON 1
#define DA_REAL_IS_DOUBLE 0
#define DA_KERNELS_ISA DA_ISA_NEON
#define DA_KERNELS_NAME da_kernels_neon_f32
#include "kernels/attend.inc.h"
