/* The part of a problem that one run of a pass computes: which rows, against which columns, and where their tensors' rows
 * lie. For `improved` it is the whole problem. `ring` and `distributed` have tensors that hold the tokens of one part, and
 * columns that other ranks sent; then a pass may run several times, each time against other columns, and carry what rows
 * have so far from one run to the next. */
#ifndef DA_ATTENTION_SCOPE_H
#define DA_ATTENTION_SCOPE_H

#include "core/tensor.h"
#include "pattern/kept.h"
#include "pattern/layout.h"
#include "pattern/tiles.h"

enum { DA_FIRST = 0, DA_SECOND = 1 };

/* Rows of columns' tensors that came from one place. */
typedef struct da_source {
    const da_part *part;  /* the tokens that are held there */
    da_tensor tensors[2]; /* keys and values, or queries and the gradient of their outputs */
    /* NULL: the tensors have a row for each of the part's tokens. Otherwise, per head of the tensors, the rows that were
     * sent, which lie one after the other: those of batch element b begin at first_rows[head] + b * count. The tensors'
     * strides of batch and head are then 0. */
    const da_kept *kept;
    const int64_t *first_rows;
    /* With queries that were sent, for each row: log2 of the softmax's denominator, and <grad_out, out> - grad_lse. */
    const double (*terms)[2];
} da_source;

/* What is carried from one run to the next: for each of the part's rows, of each batch element and head, an array of
 * numbers that the pass knows. */
typedef struct da_carry {
    char *memory;
    bool begins; /* nothing is carried yet */
    bool ends;   /* outputs are written, and nothing is carried any further */
} da_carry;

/* The call's tensors hold the heads first..end-1 of `all`: what a head sees depends on its number among all. */
typedef struct da_head_range {
    int64_t first, end, all;
} da_head_range;

typedef struct da_scope {
    int64_t n;           /* tokens of the whole sequence */
    const da_part *rows; /* the rows to compute, as rows of the call's tensors */
    int64_t columns_first, columns_end;
    const da_layout *layout;  /* NULL: there is one source, which has some of the columns */
    const da_source *sources; /* otherwise one for each rank, without tensors (data NULL) if it has sent nothing */
    const da_carry *carry;    /* NULL: one run computes all */
    da_head_range heads;
    /* NULL: all pairs count. Otherwise those in its tiles do; its rows are blocks of the pass's rows, and it goes by the
     * call's batch elements and heads of queries. The scope's columns are then all. */
    const da_tiles *tiles;
    /* [batch][heads] of the call: heads of which every pair lies in some tile, and which are computed as without tiles. NULL:
     * none is. */
    const bool *full;
} da_scope;

/* A whole problem: the memory that its scope points into. */
typedef struct da_whole {
    da_piece piece;
    da_part part;
    da_source source;
    da_scope scope;
} da_whole;

/* first, second: the columns' tensors; n rows. */
static inline const da_scope *da_scope_whole(da_whole *whole, int64_t n, const da_head_range *heads,
                                             const da_tensor *first, const da_tensor *second) {
    whole->piece = (da_piece){0, n, 0};
    whole->part = (da_part){n, 1, &whole->piece};
    whole->source = (da_source){.part = &whole->part, .tensors = {*first, *second}};
    whole->scope =
        (da_scope){.n = n, .rows = &whole->part, .columns_end = n, .sources = &whole->source, .heads = *heads};
    return &whole->scope;
}

/* Where a column's rows lie: the source, or NULL if they are not at hand, and the row of its tensors. */
static inline const da_source *da_scope_find(const da_scope *scope, int64_t batch, int64_t head, int64_t position,
                                             int64_t *row) {
    const da_source *source = scope->sources;
    if (scope->layout) {
        source += da_layout_find(scope->layout, position, row);
    } else {
        *row = da_part_row(source->part, position);
    }
    if (*row < 0 || !source->tensors[DA_FIRST].data) {
        return NULL;
    }
    if (source->kept) {
        const da_kept *kept = &source->kept[head];
        int64_t index = da_kept_index(kept, *row);
        if (index < 0) {
            return NULL;
        }
        *row = source->first_rows[head] + batch * kept->count + index;
    }
    return source;
}

/* Do all columns lie in one source's tensors, row by row? Then the row of a column is its position + *shift. */
static inline bool da_scope_finds_all(const da_scope *scope, int64_t *shift) {
    const da_source *source = scope->sources;
    if (scope->layout || source->kept || !source->tensors[DA_FIRST].data || source->part->piece_count != 1) {
        return false;
    }
    const da_piece *piece = source->part->pieces;
    *shift = piece->row - piece->first;
    return piece->first <= scope->columns_first && scope->columns_end <= piece->end;
}

/* The patterns of head `head` of the call's queries. */
static inline void da_scope_patterns(const da_scope *scope, const da_attention_config *config, int64_t head,
                                     da_head_patterns *patterns) {
    da_head_patterns_init(patterns, config, scope->n, scope->heads.all, scope->heads.first + head);
}

/* The tiles by which head `head` of the call's queries goes; NULL: all its pairs count. */
static inline const da_tiles *da_scope_tiles(const da_scope *scope, int64_t batch, int64_t head) {
    bool is_full = scope->full && scope->full[batch * scope->heads.all + scope->heads.first + head];
    return is_full ? NULL : scope->tiles;
}

/* Tokens in a block of the scope's tiles; 0 without. */
static inline int64_t da_scope_tile_block(const da_scope *scope) {
    return scope && scope->tiles ? scope->tiles->block_size : 0;
}

/* All the heads of a call's queries. */
static inline da_head_range da_all_heads(const da_tensor *query) {
    return (da_head_range){0, query->shape[2], query->shape[2]};
}

static inline bool da_scope_begins(const da_scope *scope) {
    return !scope->carry || scope->carry->begins;
}

static inline bool da_scope_ends(const da_scope *scope) {
    return !scope->carry || scope->carry->ends;
}

#endif
