/* The micro-kernels behind one table of function pointers.
 *
 * attend.inc.h is written once, over the few vector operations of simd.h; each instruction set's folder gives those
 * operations and compiles the template for f32 and f64 with its own compiler flags. An implementation gets a table and
 * never knows which instructions run. Where tensors' types have products of their own (bf16), the layouts below hold that
 * type in place of real; only the kernels look into them.
 *
 * Vocabulary: a query tile is `tile_rows` queries; a key panel is `panel_keys` keys, stored so that one vector load
 * reads one component of several keys; a key block is up to DA_BLOCK_KEYS keys, whole panels. `real` is the type of
 * sums: f32, or f64 for f64 tensors. Scores are in units of log 2: queries are packed with scale / ln 2 multiplied in,
 * so that weights are powers of two. */
#ifndef DA_KERNELS_KERNELS_H
#define DA_KERNELS_KERNELS_H

#include "attention/dropout.h"

#define DA_BLOCK_KEYS 256
#define DA_MAX_TILE_ROWS 32
#define DA_MIN_PANEL_KEYS 8
#define DA_MAX_PANELS (DA_BLOCK_KEYS / DA_MIN_PANEL_KEYS)
#define DA_SPREAD_ROWS 96 /* rows whose differences are kept in the type of sums: whole tiles */

/* Keys and values gathered from the runs of a span (pattern/schedule.h), all seen by the same classes of queries; or panels
 * that were packed before, wherever they lie. */
typedef struct da_key_block {
    int count;      /* keys gathered so far */
    int head_dim;   /* as in the tensors */
    int padded_dim; /* rounded up to whole vectors: the length of a row of values */
    void *staged;   /* real[panel_keys][padded_dim]: keys waiting for their panel to fill */
    void *panels;   /* real[DA_BLOCK_KEYS / panel_keys][head_dim][panel_keys], in memory for padded_dim */
    void *values;   /* real[DA_BLOCK_KEYS][padded_dim], zero beyond head_dim */
    /* Where each panel's keys and values are: what was appended lies in the memory above. */
    const void *panel_keys[DA_MAX_PANELS], *panel_values[DA_MAX_PANELS];
    int32_t *positions; /* [DA_BLOCK_KEYS]: position in the sequence, relative to the item's base */
    uint32_t *tokens;   /* [DA_BLOCK_KEYS]: the low bits of the position itself, for dropout */
    int32_t panel_first[DA_BLOCK_KEYS / DA_MIN_PANEL_KEYS]; /* smallest and largest position in each panel */
    int32_t panel_last[DA_BLOCK_KEYS / DA_MIN_PANEL_KEYS];
    bool values_finite; /* no infinity and no NaN among the values */
} da_key_block;

/* Where the rows of some keys and values, at equal distances, and what goes with them come from. */
typedef struct da_key_source {
    const void *key, *value;          /* of the first; value NULL: scores alone are wanted, of a block without values */
    int64_t key_step, value_step;     /* from row to row, in bytes */
    int64_t key_stride, value_stride; /* between components, in elements */
    da_dtype dtype;
    int count;
    int32_t position, position_step;
    uint32_t token; /* steps likewise */
} da_key_source;

/* Some query rows and their running state over all patterns: the softmax's maximum and sum, and the output before
 * division. */
typedef struct da_query_tile {
    const void *queries; /* real[head_dim][tile_rows], in memory for real[padded_dim][tile_rows] */
    void *maximum;       /* real[tile_rows] */
    void *sum;           /* real[tile_rows] */
    void *accumulator;   /* real[tile_rows][padded_dim] */
    void *scores;        /* scratch: real[tile_rows][DA_BLOCK_KEYS] */
    const void *bias;    /* real[DA_BLOCK_KEYS]: log2 of each key's multiplicity, from set_bias */
    double score_factor; /* of the scores, where it was not multiplied into the queries */
    int rows;            /* rows in use, 1..tile_rows */
    /* A row sees the keys with first_visible[r] <= position <= last_visible[r] < INT32_MAX (relative, as in the block). */
    int32_t first_visible[DA_MAX_TILE_ROWS], last_visible[DA_MAX_TILE_ROWS];
    const da_dropout *dropout;         /* NULL: none */
    bool rows_are_keys;                /* and the block's keys queries: as in the backward pass */
    uint32_t tokens[DA_MAX_TILE_ROWS]; /* with dropout: the low bits of each row's position */
} da_query_tile;

/* The backward pass has two directions, of the same arithmetic. In one, the rows of a tile are queries with their
 * grad_out, and the columns of a block keys with their values; in the other, rows are keys with their values, and columns
 * queries with their grad_out. */
typedef struct da_gradient_block {
    da_key_block first;  /* keys, or queries: each as key and as value, so in panels and in rows */
    da_key_block second; /* values, or grad_out, likewise */
    /* Where columns are queries, real[DA_BLOCK_KEYS] each, else NULL: log2 of the softmax's denominator, and
     * <grad_out, out> - grad_lse. Numbers in whole panels. */
    void *lse, *delta;
} da_gradient_block;

/* Where rows are keys and columns queries, the columns' gradient is the sum over rows of ds times the row's key. The ds of
 * several tiles are kept, so that this product, too, has rows enough to be done in registers. */
typedef struct da_column_gradient {
    void *differences;        /* real[panels][DA_SPREAD_ROWS][panel_keys], or the same memory in another type */
    int rows;                 /* kept so far */
    bool seen[DA_MAX_PANELS]; /* some row kept sees the panel */
    const void *keys;         /* of the rows kept, from store_key_row */
    bool keys_finite;         /* no infinity and no NaN among them */
    void *sums;               /* real[DA_BLOCK_KEYS][padded_dim] */
} da_column_gradient;

typedef struct da_gradient_tile {
    /* Queries, or keys; the accumulator: their gradient. No maximum, no sum. */
    da_query_tile first;
    /* grad_out, or values, times the factor of weights that are kept; its bias 0; the accumulator: the gradient of values. */
    da_query_tile second;
    const void *lse, *delta;        /* where rows are queries, real[tile_rows] each */
    bool wants_first, wants_second; /* the gradients */
    da_column_gradient *columns;    /* NULL: not wanted; otherwise with room for the tile */
} da_gradient_tile;

typedef struct da_kernels {
    da_isa isa;
    int tile_rows, panel_keys, vector_lanes;
    size_t real_size;
    size_t packed_size; /* bytes of a component of packed rows, which have memory for real */
    /* Packs one query row as row `row` of a tile. Kernels that can do so without rounding multiply it by `factor`, the
     * others multiply the scores by the tile's score_factor: give both the same. */
    void (*pack_query)(const void *query, int64_t stride, da_dtype dtype, int head_dim, double factor, int row,
                       void *queries);
    /* Appends keys to a block that has room for them. */
    void (*append_keys)(da_key_block *block, const da_key_source *source);
    /* Completes the last panel; needed before attend. */
    void (*close_block)(da_key_block *block);
    /* Makes a tile's bias for `count` keys from their multiplicities; -infinity fills the last panel. */
    void (*set_bias)(const uint8_t *multiplicities, int count, void *bias);
    /* scores, softmax and output of one tile against one closed block. */
    void (*attend)(const da_key_block *block, const da_query_tile *tile);
    /* NULL, or what a thread calls before and after any number of calls of attend: they set registers up. */
    void (*begin)(void);
    void (*end)(void);
    /* NULL, or to be called once on each tile's accumulator when all blocks are done: makes it real[tile_rows][padded_dim],
     * where these kernels keep it in another order until then. */
    void (*finish_tile)(void *accumulator, int padded_dim);
    /* Writes one finished row: accumulator * factor, in the tensor's data type. */
    void (*store_row)(const void *accumulator, double factor, da_dtype dtype, int head_dim, void *out, int64_t stride);
    /* NULL, with the rest, in tables that have no backward pass of their own. Gradients of one tile's rows from one closed
     * block, added to its accumulators. */
    void (*attend_backward)(const da_gradient_block *block, const da_gradient_tile *tile);
    /* Adds what is kept of `columns` to its sums, and keeps nothing from then on. */
    void (*spread_columns)(const da_gradient_block *block, da_column_gradient *columns);
    int spread_rows; /* that can be kept */
    /* Stores a tensor's row as row `row` of `keys`, memory for real[rows][padded_dim] of whole tiles, for spread_columns;
     * rows in ascending order, and zeros where there are none. Returns whether it is finite. */
    bool (*store_key_row)(const void *key, int64_t stride, da_dtype dtype, int head_dim, int padded_dim, int row,
                          void *keys);
    /* Sum of a[c] * b[c] over two rows of tensors. */
    double (*dot)(const void *a, int64_t a_stride, const void *b, int64_t b_stride, da_dtype dtype, int head_dim);
    /* NULL, with the rest, but in the tables for f32 tensors: for estimates of attention, in f32.
     * Adds `count` rows of a tensor (not of f64), `step` bytes apart, to sum[head_dim]; returns the sum of their squared
     * lengths. */
    float (*add_rows)(const void *row, int64_t step, int count, int64_t stride, da_dtype dtype, int head_dim,
                      float *sum);
    /* Scores of the rows of a tile with the keys of a closed block, plus the tile's bias; who sees whom plays no part. */
    void (*score)(const da_key_block *block, const da_query_tile *tile);
    /* Of each of `groups` groups, of `group` consecutive scores each: a maximum, that of all, and the sum of
     * 2^(score - maximum); -infinity and 0 where no score is above -infinity, or all are too small beside the maximum. bias:
     * NULL, or to be added to the scores. group * groups <= DA_BLOCK_KEYS. */
    void (*reduce_groups)(const float *scores, const float *bias, int group, int groups, float *maximum, float *sum);
    /* out[g] = sum[g] * 2^(maximum[g] - largest), for a finite `largest` that no maximum exceeds. */
    void (*weigh)(const float *maximum, const float *sum, float largest, int64_t count, float *out);
} da_kernels;

/* Table for tensors of a data type, of an instruction set that da_kernels_built() and the CPU have. */
const da_kernels *da_kernels_for(da_isa isa, da_dtype dtype);

/* The same with sums, weights and products in real alone, for dropout. */
const da_kernels *da_kernels_for_dropout(da_isa isa, da_dtype dtype);

/* Table for a backward pass: without dropout, of products of the data type's own where there are any. */
const da_kernels *da_kernels_for_backward(da_isa isa, da_dtype dtype, bool drops);

/* True if this build holds kernels for the instruction set. */
bool da_kernels_built(da_isa isa);

#endif
