#include "generate.h"

#include <math.h>

#include "core/dtype.h"
#include "core/parallel.h"

#define BLOCK 4096 /* numbers from one seed */

typedef struct generation {
    const da_tensor *tensor;
    int64_t elements;
    uint64_t seed;
} generation;

/* SplitMix64. */
static uint64_t next_bits(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In (0, 1). */
static double next_uniform(uint64_t *state) {
    return ((double)(next_bits(state) >> 11) + 0.5) * 0x1p-53;
}

static void fill_block(int64_t index, int thread, void *user) {
    const generation *job = user;
    const double two_pi = 6.283185307179586;
    size_t size = da_dtype_size(job->tensor->dtype);
    int64_t start = index * BLOCK;
    int64_t stop = start + BLOCK < job->elements ? start + BLOCK : job->elements;
    uint64_t state = job->seed ^ ((uint64_t)index << 20);
    for (int64_t i = start; i < stop; i++) { /* Box-Muller */
        double radius = sqrt(-2 * log(next_uniform(&state)));
        double value = radius * cos(two_pi * next_uniform(&state));
        da_dtype_store(job->tensor->dtype, (char *)job->tensor->data + (size_t)i * size, value);
    }
}

void generate_normal(const da_tensor *tensor, uint64_t seed, int threads) {
    generation job = {tensor, tensor->shape[0] * tensor->shape[1] * tensor->shape[2] * tensor->shape[3], seed};
    da_parallel_for(threads, (job.elements + BLOCK - 1) / BLOCK, fill_block, &job);
}
