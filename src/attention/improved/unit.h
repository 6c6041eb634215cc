/* A unit of rows against the columns that they see: what the passes of `improved` share. Rows are queries and columns keys,
 * or, in the pass for the gradients of keys and values, rows are keys and columns queries.
 *
 * The rows of a span (pattern/schedule.h) are placed in tiles that belong to one class each, and packed once. Their columns
 * come in runs, are gathered and packed in blocks, and every block is taken against the tiles of all the classes that see
 * it. So a column is packed once per span, and a score is computed once. Nothing here depends on the data type or the
 * instruction set. */
#ifndef DA_ATTENTION_UNIT_H
#define DA_ATTENTION_UNIT_H

#include "attention/scope.h"
#include "attention/workspace.h"
#include "kernels/kernels.h"
#include "pattern/schedule.h"
#include "pattern/tile_groups.h"

#define DA_WIDEST_STEP 32 /* components to whose multiples kernels round head_dim up */

/* How a pass cuts a problem. */
typedef struct da_unit_cut {
    const da_kernels *kernels;
    int head_dim, padded_dim;
    int64_t unit, unit_count; /* rows of a unit at most, and units per sequence */
    int block_keys;           /* columns of a block, at most DA_BLOCK_KEYS */
    int most_classes;         /* of a unit */
    size_t rows;              /* that a unit's classes need, whole tiles each */
    bool clear_memory;        /* components between head_dim and the end of a vector are read, and are to be zero */
} da_unit_cut;

_Static_assert(DA_MAX_CLASSES <= DA_GROUP_ROWS, "a span may have a block of rows for each class");

/* The rows of a span that the same segments keep and, where tiles are chosen, that lie in the same block: first_row,
 * first_row + 1, ... */
typedef struct da_row_class {
    da_segment_set kept_in;
    int64_t block;            /* 0 without tiles */
    int first_row, row_count; /* first_row begins a tile */
} da_row_class;

/* What a pass does with rows and columns; `worker` is the unit's. */
typedef struct da_unit_pass {
    bool rows_are_keys;
    bool (*row_is_absent)(const void *worker, int64_t position),
        (*column_is_absent)(const void *worker, int64_t position);
    void (*begin_class)(void *worker, const da_row_class *class); /* packs its rows */
    void (*fill_block)(void *worker); /* gathers the columns visited, and closes the block */
    /* Takes the block against the tile of a class that begins at its row `row`. */
    void (*attend_tile)(void *worker, const da_row_class *class, int row);
    void (*leave_class)(void *worker); /* NULL, or to be called when all tiles of a class have met the block */
    void (*leave_block)(void *worker); /* NULL, or to be called when all classes have */
    void (*finish_class)(void *worker, const da_row_class *class);
} da_unit_pass;

/* Columns of a block to be, in ascending order. */
typedef struct da_columns {
    int count;
    uint64_t seen_by;          /* the classes that see them */
    int64_t *positions;        /* [DA_BLOCK_KEYS] */
    int64_t *rows;             /* [DA_BLOCK_KEYS]: where each lies */
    const da_source **sources; /* [DA_BLOCK_KEYS] */
    da_segment_set *held_in;   /* [DA_BLOCK_KEYS]: the segments that hold each */
} da_columns;

/* The rows of a tensor that columns of one source have, of the batch element and head at hand. */
typedef struct da_row_range {
    const char *first;
    int64_t step; /* bytes from row to row */
    size_t bytes; /* of a row */
} da_row_range;

/* packed.h */
typedef struct da_packed_columns da_packed_columns;

/* One thread's span. */
typedef struct da_unit {
    const da_unit_cut *cut;
    const da_unit_pass *pass;
    void *worker;
    const da_scope *scope;
    const da_head_patterns *patterns; /* of the head at hand */
    int64_t batch;
    int64_t column_head;             /* of the columns' tensors */
    int64_t row_shift;               /* from a row's position to its row in the tensors */
    bool columns_may_be_absent;      /* false: the pass need not be asked */
    const da_packed_columns *packed; /* keys, with values; NULL: columns are gathered */
    int64_t packed_sequence;         /* of the head at hand */
    da_dropout dropout;              /* of the head at hand */
    da_span span;
    int class_count;
    da_row_class classes[DA_MAX_CLASSES];
    int kind_count; /* different kept_in among the classes */
    da_segment_set kinds[DA_MAX_CLASSES];
    uint64_t classes_of_kind[DA_MAX_CLASSES];
    const da_tiles *tiles;                /* of the head at hand; NULL: all pairs count */
    int64_t first_tile_row;               /* of the head, in its tiles */
    uint64_t in_reach;                    /* classes whose tiles have the columns that are visited */
    uint64_t seen_by_kinds, next_seen_by; /* of the column visited last: the kinds, and the classes, that see it */
    uint8_t *class_of;                    /* [unit]: of each row of the span */
    int *row_positions;                   /* [rows]: relative to the span's first */
    char *bias;                           /* real[DA_BLOCK_KEYS], of the class at hand */
    int bias_count;                       /* of the columns that it is for, 0: of none, */
    uint8_t *multiplicities;              /* [DA_BLOCK_KEYS], and theirs */
    bool has_begun;                       /* the span's rows are packed */
    /* While some columns are attended to, the rows of the next ones, which have been visited, are on their way. */
    da_columns columns, next;
    int prefetched, prefetch_share; /* of the next ones: how many were asked for, and at a time */
    const da_source *next_source;   /* of the column that was asked for last */
    da_row_range next_rows[2];
} da_unit;

/* head_dim, rounded up to whole vectors. */
static inline int da_unit_padded_dim(const da_kernels *kernels, int64_t head_dim) {
    return (int)(head_dim + kernels->vector_lanes - 1) / kernels->vector_lanes * kernels->vector_lanes;
}

/* Cuts `sequences` sequences of a problem, for rows that have row_arrays arrays of padded_dim reals each. problem->n: the
 * rows of the part that is computed. tile_block: tokens in a block where tiles are chosen, else 0. */
void da_unit_cut_init(da_unit_cut *cut, const da_kernels *kernels, const da_attention_config *config,
                      const da_problem *problem, int64_t sequences, int row_arrays, int64_t tile_block);

/* Sets the number of units of a part, each of which lies in one piece. */
void da_unit_cut_part(da_unit_cut *cut, const da_part *part);

/* The rows of a part's unit 0..unit_count-1, as a piece. */
da_piece da_unit_piece(const da_unit_cut *cut, const da_part *part, int64_t index);

/* Lay out memory for units that are cut so, and for a block. */
void da_unit_lay_out(da_unit *unit, da_arena *arena, const da_unit_cut *cut);
void da_block_lay_out(da_key_block *block, da_arena *arena, const da_unit_cut *cut);

/* Goes by the scope's tiles of head `head` of the call's queries, where it has any. */
static inline void da_unit_set_tiles(da_unit *unit, int64_t head) {
    unit->tiles = da_scope_tiles(unit->scope, unit->batch, head);
    unit->first_tile_row = unit->tiles ? da_tiles_row(unit->tiles, unit->batch, unit->scope->heads.first + head, 0) : 0;
}

/* Computes a piece's rows, span by span. */
void da_unit_run(da_unit *unit, const da_piece *piece);

/* ---- for the functions of a pass --------------------------------------------------------------------------------- */

static inline int64_t da_unit_row_position(const da_unit *unit, int row) {
    return unit->span.first + unit->row_positions[row];
}

/* The row of the call's tensors. */
static inline int64_t da_unit_tensor_row(const da_unit *unit, int row) {
    return da_unit_row_position(unit, row) + unit->row_shift;
}

/* The place of what a row carries among those of its array; `sequence`: of the row's head, among all. */
static inline size_t da_unit_carried(const da_unit *unit, int64_t sequence, int64_t position) {
    const da_part *rows = unit->scope->rows;
    return (size_t)(sequence * rows->length + position + unit->row_shift - rows->pieces->row);
}

/* Rows of a class, rounded up to whole tiles. */
static inline int da_unit_padded_rows(const da_unit *unit, const da_row_class *class) {
    int tile_rows = unit->cut->kernels->tile_rows;
    return (class->row_count + tile_rows - 1) / tile_rows * tile_rows;
}

/* Bytes of a row of padded_dim reals. */
static inline size_t da_unit_row_bytes(const da_unit *unit) {
    return (size_t)unit->cut->padded_dim * unit->cut->kernels->real_size;
}

/* Packs a tensor's rows of a class, times `factor`, into its tiles of packed: real[rows][padded_dim]. */
void da_unit_pack(const da_unit *unit, const da_row_class *class, const da_tensor *tensor, int64_t head, double factor,
                  char *packed);

/* Makes a block of the columns visited: rows of one of the sources' tensors (DA_FIRST or DA_SECOND) for its panels, and of
 * one as values. They are gathered, or packed already. */
void da_unit_gather(const da_unit *unit, int key, int value, da_key_block *block);

/* Makes rows of the accumulators of a class: real[rows][padded_dim], of which its first_row begins a tile. */
void da_unit_finish_tiles(const da_unit *unit, const da_row_class *class, char *accumulators);

/* Fills in, for the tile that begins at row `row` of a class, the rows in use, what they see, what dropout needs, and the
 * bias. */
void da_unit_describe_tile(const da_unit *unit, const da_row_class *class, int row, da_query_tile *tile);

/* ---- real numbers whose type only the kernels know --------------------------------------------------------------- */

static inline double da_real_at(const da_kernels *kernels, const char *array, int64_t index) {
    return kernels->real_size == sizeof(double) ? ((const double *)(const void *)array)[index]
                                                : (double)((const float *)(const void *)array)[index];
}

static inline void da_set_real(const da_kernels *kernels, char *array, int64_t index, double value) {
    if (kernels->real_size == sizeof(double)) {
        ((double *)(void *)array)[index] = value;
    } else {
        ((float *)(void *)array)[index] = (float)value;
    }
}

#endif
