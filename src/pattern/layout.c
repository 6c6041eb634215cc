#include "pattern/layout.h"

#include <inttypes.h>
#include <stdlib.h>

#include "config/validation.h"
#include "core/arena.h"
#include "core/memory.h"

/* Bounds under which no product below overflows; n as da_problem_import has it. */
#define MAX_TOKENS ((int64_t)1 << 48)
#define MAX_RANKS (1 << 24)

/* A prime: a round of ranks * stripe that divides the lengths of segments would give a rank the same place in all of them, the
 * last rank the latest queries, which see most. */
#define DEFAULT_STRIPE 2039

/* How a sequence is cut. */
typedef struct cut {
    da_partition partition;
    int64_t stripe, n;
    int ranks;
} cut;

static da_status cut_begin(cut *c, da_partition partition, int64_t stripe, int64_t n, int ranks) {
    da_status status = da_check_enum("partition", (int)partition, da_partition_name(partition));
    if (status == DA_OK && stripe < 0) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "stripe is %" PRId64 "; allowed: 0 (%d) or more", stripe,
                           DEFAULT_STRIPE);
    }
    if (status == DA_OK && (n < 0 || n > MAX_TOKENS)) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "n is %" PRId64 "; allowed: 0 to %" PRId64, n, MAX_TOKENS);
    }
    if (status == DA_OK && (ranks < 1 || ranks > MAX_RANKS)) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "ranks is %d; allowed: 1 to %d", ranks, MAX_RANKS);
    }
    stripe = stripe == 0 ? DEFAULT_STRIPE : stripe;
    if (ranks == 1 && n > 0) { /* neighbouring blocks are one */
        stripe = n;
    }
    *c = (cut){partition, stripe, n, ranks};
    return status;
}

/* Number of chunks that a rank holds, empty ones among them. */
static int64_t chunk_count(const cut *c, int rank) {
    if (c->partition != DA_PARTITION_STRIPED) {
        return c->partition == DA_PARTITION_ZIGZAG ? 2 : 1;
    }
    int64_t blocks = c->n / c->stripe + (c->n % c->stripe != 0);
    return rank < blocks ? (blocks - 1 - rank) / c->ranks + 1 : 0;
}

/* Chunk k of a rank: positions first..end-1. */
static void chunk_ends(const cut *c, int rank, int64_t k, int64_t *first, int64_t *end) {
    if (c->partition == DA_PARTITION_STRIPED) {
        *first = (k * c->ranks + rank) * c->stripe;
        *end = c->stripe < c->n - *first ? *first + c->stripe : c->n;
        return;
    }
    bool zigzag = c->partition == DA_PARTITION_ZIGZAG;
    int64_t parts = zigzag ? (int64_t)2 * c->ranks : c->ranks, chunk = k == 0 ? rank : parts - 1 - rank;
    *first = da_even_end(c->n, chunk, parts);
    *end = da_even_end(c->n, chunk + 1, parts);
}

/* Rows before chunk k of a rank: of a striped sequence, only the last block is shorter than the others. */
static int64_t rows_before(const cut *c, int rank, int64_t k) {
    int64_t begin = c->partition == DA_PARTITION_STRIPED && k > 0 ? k - 1 : 0, rows = begin * c->stripe;
    for (int64_t chunk = begin; chunk < k; chunk++) {
        int64_t first, end;
        chunk_ends(c, rank, chunk, &first, &end);
        rows += end - first;
    }
    return rows;
}

/* ---- for those who cut their own tensors --------------------------------------------------------------------------- */

static da_status cut_of_rank(cut *c, da_partition partition, int64_t stripe, int64_t n, int ranks, int rank) {
    da_status status = cut_begin(c, partition, stripe, n, ranks);
    if (status == DA_OK && (rank < 0 || rank >= ranks)) {
        status =
            da_report(DA_ERROR_INVALID_ARGUMENT, "rank is %d; allowed: 0 to ranks - 1, which is %d", rank, ranks - 1);
    }
    return status;
}

da_status da_partition_length(da_partition partition, int64_t stripe, int64_t n, int ranks, int rank, int64_t *length) {
    cut c;
    da_status status = cut_of_rank(&c, partition, stripe, n, ranks, rank);
    if (status == DA_OK && !length) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "length is NULL; allowed: a place for the result");
    }
    if (status == DA_OK) {
        *length = rows_before(&c, rank, chunk_count(&c, rank));
    }
    return status;
}

da_status da_partition_position(da_partition partition, int64_t stripe, int64_t n, int ranks, int rank, int64_t row,
                                int64_t *position) {
    cut c;
    da_status status = cut_of_rank(&c, partition, stripe, n, ranks, rank);
    if (status == DA_OK && !position) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "position is NULL; allowed: a place for the result");
    }
    if (status != DA_OK) {
        return status;
    }
    int64_t length = rows_before(&c, rank, chunk_count(&c, rank)), first, end;
    if (length == 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "row is %" PRId64 "; allowed: none, rank %d holds no rows", row,
                         rank);
    }
    if (row < 0 || row >= length) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "row is %" PRId64 "; allowed: 0 to %" PRId64, row, length - 1);
    }
    int64_t k = partition == DA_PARTITION_STRIPED ? row / c.stripe : row >= rows_before(&c, rank, 1);
    chunk_ends(&c, rank, k, &first, &end);
    *position = first + (row - rows_before(&c, rank, k));
    return DA_OK;
}

/* ---- parts --------------------------------------------------------------------------------------------------------- */

da_part da_part_whole(int64_t n, da_piece *piece) {
    *piece = (da_piece){0, n, 0};
    return (da_part){.length = n, .piece_count = n > 0, .pieces = piece};
}

int64_t da_part_piece_after(const da_part *part, int64_t position) {
    int64_t low = 0, high = part->piece_count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (part->pieces[middle].end > position) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

int64_t da_part_position(const da_part *part, int64_t row) {
    int64_t low = 0, high = part->piece_count - 1; /* the last piece whose first row is at most `row` */
    while (low < high) {
        int64_t middle = high - (high - low) / 2;
        if (part->pieces[middle].row <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return part->pieces[low].first + (row - part->pieces[low].row);
}

/* Adds positions first..end-1 to a part, whose pieces are followed by memory for one more. */
static void add_piece(da_part *part, da_piece *pieces, int64_t first, int64_t end) {
    if (first == end) {
        return;
    }
    if (part->piece_count > 0 && pieces[part->piece_count - 1].end == first) {
        pieces[part->piece_count - 1].end = end;
    } else {
        pieces[part->piece_count++] = (da_piece){first, end, part->length};
    }
    part->length += end - first;
}

/* ---- layouts ------------------------------------------------------------------------------------------------------- */

static da_status check_lengths(const cut *c, const int64_t *lengths) {
    int64_t sum = 0;
    for (int rank = 0; rank < c->ranks; rank++) {
        int64_t allowed = rows_before(c, rank, chunk_count(c, rank));
        if (c->partition != DA_PARTITION_CONTIGUOUS && lengths[rank] != allowed) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "rank %d brings %" PRId64 " tokens; allowed: %" PRId64 ", its part of %" PRId64
                             " over %d ranks with the partition %s",
                             rank, lengths[rank], allowed, c->n, c->ranks, da_partition_name(c->partition));
        }
        if (lengths[rank] < 0 || lengths[rank] > c->n - sum) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "rank %d brings %" PRId64 " tokens; allowed: 0 to %" PRId64,
                             rank, lengths[rank], c->n - sum);
        }
        sum += lengths[rank];
    }
    if (sum != c->n) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "the ranks bring %" PRId64 " tokens; allowed: n, which is %" PRId64,
                         sum, c->n);
    }
    return DA_OK;
}

static void fill_parts(da_layout *layout, const cut *c, const int64_t *lengths) {
    da_piece *pieces = layout->pieces;
    int64_t begun = 0; /* tokens of the ranks before, where their lengths are given */
    for (int rank = 0; rank < c->ranks; rank++) {
        da_part *part = &layout->parts[rank];
        *part = (da_part){.pieces = pieces};
        if (lengths && c->partition == DA_PARTITION_CONTIGUOUS) {
            add_piece(part, pieces, begun, begun + lengths[rank]);
            begun += lengths[rank];
        } else {
            for (int64_t k = 0; k < chunk_count(c, rank); k++) {
                int64_t first, end;
                chunk_ends(c, rank, k, &first, &end);
                add_piece(part, pieces, first, end);
            }
        }
        pieces += part->piece_count;
    }
}

static int compare_held(const void *a, const void *b) {
    int64_t first = ((const da_held_piece *)a)->piece.first, second = ((const da_held_piece *)b)->piece.first;
    return first < second ? -1 : first > second;
}

static void sort_pieces(da_layout *layout) {
    for (int rank = 0; rank < layout->ranks; rank++) {
        const da_part *part = &layout->parts[rank];
        for (int64_t k = 0; k < part->piece_count; k++) {
            layout->in_order[layout->piece_count++] = (da_held_piece){part->pieces[k], rank};
        }
    }
    qsort(layout->in_order, (size_t)layout->piece_count, sizeof *layout->in_order, compare_held);
}

int da_layout_find(const da_layout *layout, int64_t position, int64_t *row) {
    int64_t low = 0, high = layout->piece_count - 1; /* the last piece that begins at `position` or before */
    while (low < high) {
        int64_t middle = high - (high - low) / 2;
        if (layout->in_order[middle].piece.first <= position) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const da_held_piece *held = &layout->in_order[low];
    *row = held->piece.row + (position - held->piece.first);
    return held->rank;
}

da_status da_layout_create(const da_allocator *allocator, da_partition partition, int64_t stripe, int64_t n, int ranks,
                           const int64_t *lengths, da_layout **out) {
    cut c;
    *out = NULL;
    da_status status = cut_begin(&c, partition, stripe, n, ranks);
    if (status == DA_OK && lengths) {
        status = check_lengths(&c, lengths);
    }
    if (status != DA_OK) {
        return status;
    }
    int64_t pieces = 0;
    for (int rank = 0; rank < ranks; rank++) {
        pieces += chunk_count(&c, rank);
    }
    da_arena sizes = {0};
    da_arena_take(&sizes, 1, sizeof(da_layout));
    da_arena_take(&sizes, (size_t)ranks, sizeof(da_part));
    da_arena_take(&sizes, (size_t)pieces, sizeof(da_piece));
    da_arena_take(&sizes, (size_t)pieces, sizeof(da_held_piece));
    da_arena arena = {da_allocate(allocator, sizes.used, 1), 0};
    if (!arena.base) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_layout *layout = da_arena_take(&arena, 1, sizeof *layout);
    *layout = (da_layout){
        .allocator = allocator ? *allocator : (da_allocator){0}, .n = n, .ranks = ranks, .bytes = sizes.used};
    layout->parts = da_arena_take(&arena, (size_t)ranks, sizeof(da_part));
    layout->pieces = da_arena_take(&arena, (size_t)pieces, sizeof(da_piece));
    layout->in_order = da_arena_take(&arena, (size_t)pieces, sizeof(da_held_piece));
    fill_parts(layout, &c, lengths);
    sort_pieces(layout);
    *out = layout;
    return DA_OK;
}

void da_layout_free(da_layout *layout) {
    if (layout) {
        da_allocator allocator = layout->allocator;
        da_release(&allocator, layout);
    }
}
