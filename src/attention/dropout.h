/* Which attention weights dropout keeps: a function of the seed and the pair alone, so that it comes out the same whatever
 * the tiles, the threads and the direction of the pass. */
#ifndef DA_ATTENTION_DROPOUT_H
#define DA_ATTENTION_DROPOUT_H

#include "dilated_attention.h"

/* Dropout as one head of one batch row applies it. */
typedef struct da_dropout {
    bool applies;
    uint32_t key;       /* of philox_2x32 */
    uint32_t threshold; /* a pair is kept if its number is at least this */
    double factor;      /* of weights that are kept: 1 / (1 - dropout) */
} da_dropout;

/* dropout in [0, 1); 0: applies to nothing. */
void da_dropout_begin(da_dropout *out, double dropout, uint64_t seed, int64_t batch, int64_t head);

/* First word of philox_2x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11). */
static inline uint32_t da_philox_2x32(uint32_t key, uint32_t counter_0, uint32_t counter_1) {
    for (int round = 0; round < 10; round++) {
        uint64_t product = (uint64_t)0xD256D193u * counter_0;
        counter_0 = (uint32_t)(product >> 32) ^ key ^ counter_1;
        counter_1 = (uint32_t)product;
        key += 0x9E3779B9u;
    }
    return counter_0;
}

/* First word of philox_4x32-10 on {counter_0, counter_1, 0, 0}. */
uint32_t da_philox_4x32(uint64_t seed, uint32_t counter_0, uint32_t counter_1);

static inline bool da_dropout_keeps_pair(const da_dropout *dropout, int64_t query, int64_t key) {
    return da_philox_2x32(dropout->key, (uint32_t)query, (uint32_t)key) >= dropout->threshold;
}

#endif
