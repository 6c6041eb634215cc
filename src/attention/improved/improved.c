/* `improved`: the fast implementation. */
#include "attention/improved/improved.h"

#include "attention/improved/passes.h"

const da_implementation da_improved_implementation = {
    .size = sizeof(da_implementation),
    .name = "improved",
    .description =
        "Vector kernels (AVX-512, AVX2, NEON, portable) chosen at run time; one pass over all patterns, each score "
        "computed once however many patterns hold it",
    .best_for = "speed on any CPU",
    .memory = "a fixed workspace a thread: up to 4 MiB, and up to 16 MiB for gradients",
    .features = DA_FEATURE_ALL,
    .dtypes = DA_DTYPE_BITS_ALL,
    .forward = da_improved_forward,
    .workspace = da_improved_workspace,
    .backward = da_improved_backward,
    .backward_workspace = da_improved_backward_workspace,
};
