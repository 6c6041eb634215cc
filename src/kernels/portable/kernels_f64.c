#define DA_REAL_IS_DOUBLE 1
#define DA_KERNELS_ISA DA_ISA_PORTABLE
#define DA_KERNELS_NAME da_kernels_portable_f64
#include "kernels/attend.inc.h"
