/* The patterns of tiles that do not look at data, as lists of tiles (docs/block-sparse.md has the formulas). */
#ifndef DA_BLOCK_SPARSE_PATTERNS_H
#define DA_BLOCK_SPARSE_PATTERNS_H

#include "pattern/pattern.h"
#include "pattern/tiles.h"

/* What one sequence, a head of a batch element, keeps. */
typedef struct da_sparse_rule {
    da_sparse_pattern pattern; /* none of content, mask and profile */
    double ratio;              /* in (0, 1] */
} da_sparse_rule;

/* Memory of a thread for rows of `blocks` blocks. */
typedef struct da_sparse_scratch {
    uint64_t *order;  /* [blocks] */
    int32_t *columns; /* [blocks] */
    uint8_t *marks;   /* [blocks] */
    uint8_t *taken;   /* [blocks] */
} da_sparse_scratch;

/* Lays it out in `memory`; returns the bytes that it takes. memory NULL: only counts. Marks and taken are to be zero before
 * the first use. */
size_t da_sparse_scratch_lay_out(da_sparse_scratch *scratch, char *memory, int64_t blocks);

/* Tiles that are kept of a universe of so many. */
int64_t da_sparse_kept(double ratio, int64_t universe);

/* The blocks of keys that block `row` of a head's queries keeps, in ascending order, to columns: [blocks], which may not be
 * the scratch's. Returns how many; columns NULL: only counts. patterns: of the head. */
int64_t da_sparse_row(const da_attention_config *config, const da_sparse_rule *rule, const da_head_patterns *patterns,
                      int64_t head, int64_t row, const da_sparse_scratch *scratch, int32_t *columns);

/* Lists for batch (the call's, or 1) and heads (the call's, or 1, of which all are alike): rules[b * heads + h], or with
 * one_rule the first for all. The block size is the configuration's. Of the options only progress counts. Errors: as da_tiles_begin,
 * DA_ERROR_CANCELLED. */
da_status da_sparse_list(const da_context *context, const da_attention_config *config, int64_t n, int64_t all_heads,
                         int64_t batch, int64_t heads, const da_sparse_rule *rules, bool one_rule,
                         const da_call_options *options, da_tiles *out);

/* Bytes that it takes beside the lists, of so many rows. */
size_t da_sparse_list_workspace(const da_context *context, const da_attention_config *config, int64_t n, size_t rows);

/* All heads keep the same tiles by a rule. */
bool da_sparse_heads_alike(const da_attention_config *config, const da_sparse_rule *rule);

#endif
