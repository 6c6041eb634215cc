/* What tiles leave of a pattern, counted. */
#ifndef DA_BLOCK_SPARSE_REPORT_H
#define DA_BLOCK_SPARSE_REPORT_H

#include "pattern/tiles.h"

/* Sets tiles_kept, tiles_all, pairs_kept and pairs_all, for so many batch elements and heads of queries. Errors:
 * DA_ERROR_OUT_OF_MEMORY. */
da_status da_sparse_count(const da_context *context, const da_attention_config *config, const da_tiles *tiles,
                          int64_t batch, int64_t heads, da_sparse_report *report);

/* Bytes that it allocates, for such tiles. */
size_t da_sparse_count_workspace(const da_context *context, const da_attention_config *config, int64_t n,
                                 int64_t block_size);

#endif
