/* Tensors of random numbers for timing and checking: the same for any number of threads. */
#ifndef DA_CLI_GENERATE_H
#define DA_CLI_GENERATE_H

#include "dilated_attention.h"

/* Fills a dense tensor with numbers of the standard normal distribution. */
void generate_normal(const da_tensor *tensor, uint64_t seed, int threads);

#endif
