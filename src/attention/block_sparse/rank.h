/* Selecting some of many by an order. */
#ifndef DA_BLOCK_SPARSE_RANK_H
#define DA_BLOCK_SPARSE_RANK_H

#include <stdint.h>

/* The number that would be at index `rank` of `count` if all, which differ and change places, were sorted. */
uint64_t da_number_of_rank(uint64_t *numbers, int64_t count, int64_t rank);

#endif
