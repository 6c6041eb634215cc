/* The table of built-in implementations, in the order in which they are listed. */
#include "factory/builtin.h"

#include "attention/block_sparse/block_sparse.h"
#include "attention/distributed/distributed.h"
#include "attention/improved/improved.h"
#include "attention/ring/ring.h"
#include "attention/standard/standard.h"

const da_implementation *const da_built_ins[DA_BUILT_IN_COUNT] = {
    &da_standard_implementation,    &da_improved_implementation,     &da_ring_implementation,
    &da_distributed_implementation, &da_block_sparse_implementation,
};
