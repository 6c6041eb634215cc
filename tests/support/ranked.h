/* Implementations for tests that run over all of them: `ring` and `distributed` over ranks that are threads. A call is cut
 * into parts as its size says (ranks, partition, lengths), computed by as many ranks, and put together again. */
#ifndef DA_TESTS_RANKED_H
#define DA_TESTS_RANKED_H

#define RING_OVER_RANKS "ring_over_ranks"
#define DISTRIBUTED_OVER_RANKS "distributed_over_ranks"

/* Of parts of a query's softmax, at most. */
enum { RANKED_MERGES = 6 };

/* Registers both, once. */
void ranked_register(void);

#endif
