#define DA_SIMD_AVX512 1
#define DA_REAL_IS_DOUBLE 0
#define TILE_ROWS 32
#define PANEL_VECS 2
#define DA_PRODUCTS "kernels/amx/products_bf16.inc.h"
#define DA_KERNELS_ISA DA_ISA_AMX_BF16
#define DA_KERNELS_NAME da_kernels_amx_bf16
#include "kernels/attend.inc.h"
