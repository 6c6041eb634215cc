#define DA_REAL_IS_DOUBLE 0
#define DA_KERNELS_ISA DA_ISA_PORTABLE
#define DA_KERNELS_NAME da_kernels_portable_f32
#include "kernels/attend.inc.h"
