/* What a choice of tiles keeps of the attention, measured on sampled queries that no choice looks at. */
#ifndef DA_BLOCK_SPARSE_MEASURE_H
#define DA_BLOCK_SPARSE_MEASURE_H

#include "pattern/tiles.h"

/* Fills in report->mass_kept, mass_error and sampled_queries, by exact attention of sampled queries of every batch element and
 * head; NAN, NAN and 0 where no sampled query has keys. The block size is that of the tiles. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_sparse_measure(const da_context *context, const da_attention_config *config, const da_tensor *query,
                            const da_tensor *key, const da_call_options *options, const da_tiles *tiles,
                            da_sparse_report *report);

/* Bytes that it allocates, for tiles of such blocks; the problem is of known length. */
size_t da_sparse_measure_workspace(const da_context *context, const da_attention_config *config,
                                   const da_problem *problem, int64_t block_size);

#endif
