#include "pattern/tile_groups.h"

/* Fewer columns than this in a group are few: a panel of the widest kernels has 64. */
#define FEW_COLUMNS 24

/* The first of ascending numbers that is not below `least`; end if there is none. */
static const int32_t *not_below(const int32_t *first, const int32_t *end, int64_t least) {
    while (first < end) {
        const int32_t *middle = first + (end - first) / 2;
        if (*middle < least) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return first;
}

void da_tile_groups_begin(da_tile_groups *groups, const da_tiles *tiles, int64_t first_row, int row_count,
                          const da_span *span) {
    da_interval visible = da_span_visible(span);
    groups->tiles = tiles;
    groups->span = span;
    groups->row_count = row_count;
    groups->count = groups->first = 0;
    for (int r = 0; r < row_count; r++) {
        const int32_t *first = tiles->columns + tiles->row_starts[first_row + r];
        const int32_t *end = tiles->columns + tiles->row_starts[first_row + r + 1];
        groups->next[r] = not_below(first, end, visible.first / tiles->block_size);
        groups->end[r] = not_below(groups->next[r], end, (visible.end - 1) / tiles->block_size + 1);
    }
}

/* Takes the next block of columns out of all rows; INT64_MAX if there is none. */
static int64_t take_column(da_tile_groups *groups, uint64_t *rows) {
    int64_t column = INT64_MAX;
    for (int r = 0; r < groups->row_count; r++) {
        if (groups->next[r] < groups->end[r] && *groups->next[r] < column) {
            column = *groups->next[r];
        }
    }
    *rows = 0;
    for (int r = 0; r < groups->row_count; r++) {
        if (groups->next[r] < groups->end[r] && *groups->next[r] == column) {
            *rows |= (uint64_t)1 << r;
            groups->next[r]++;
        }
    }
    return column;
}

static da_interval tokens_of(const da_tiles *tiles, int64_t column) {
    int64_t first = column * tiles->block_size;
    return (da_interval){first, tiles->block_size < tiles->n - first ? first + tiles->block_size : tiles->n};
}

/* How many of the tokens the segments keep that keep most of them, about. */
static int64_t kept_of(const da_span *span, da_interval tokens) {
    int64_t most = 0;
    for (int s = 0; s < span->segment_count; s++) {
        int64_t first = span->segments[s].first > tokens.first ? span->segments[s].first : tokens.first;
        int64_t end = span->segments[s].end < tokens.end ? span->segments[s].end : tokens.end;
        int64_t kept = first < end ? (end - first) / span->patterns->pattern[span->segments[s].pattern].rate : 0;
        most = kept > most ? kept : most;
    }
    return most;
}

/* Says which groups are thin. */
static void weigh_groups(da_tile_groups *groups) {
    bool weighed[DA_GROUP_COLUMNS] = {false};
    for (int first = 0; first < groups->count; first++) {
        int64_t kept = 0;
        for (int k = first; k < groups->count && !weighed[first]; k++) {
            kept += groups->rows[k] == groups->rows[first] ? groups->kept[k] : 0;
        }
        for (int k = groups->count - 1; k >= first && !weighed[first]; k--) {
            if (groups->rows[k] == groups->rows[first]) {
                groups->thin[k] = kept < FEW_COLUMNS;
                weighed[k] = true;
            }
        }
    }
}

static void sort_columns(da_tile_groups *groups) {
    uint64_t rows;
    groups->count = groups->first = 0;
    while (groups->count < DA_GROUP_COLUMNS) {
        int64_t column = take_column(groups, &rows);
        if (column == INT64_MAX) {
            break;
        }
        groups->rows[groups->count] = rows;
        groups->kept[groups->count] = kept_of(groups->span, tokens_of(groups->tiles, column));
        groups->columns[groups->count++] = (int32_t)column;
    }
    weigh_groups(groups);
}

/* The rows of the next group: all that keep the first block of columns left, or of a thin one the first such row. */
static uint64_t next_rows(da_tile_groups *groups) {
    while (groups->first < groups->count && groups->rows[groups->first] == 0) {
        groups->first++;
    }
    if (groups->first == groups->count) {
        return 0;
    }
    uint64_t rows = groups->rows[groups->first];
    return groups->thin[groups->first] ? rows & (~rows + 1) : rows;
}

int da_tile_groups_next(da_tile_groups *groups, uint64_t *rows) {
    int intervals = 0;
    *rows = next_rows(groups);
    if (*rows == 0) {
        sort_columns(groups);
        *rows = next_rows(groups);
    }
    bool thin = groups->count > 0 && groups->thin[groups->first];
    for (int k = groups->first; k < groups->count; k++) {
        if (groups->thin[k] != thin || (thin ? (groups->rows[k] & *rows) == 0 : groups->rows[k] != *rows)) {
            continue;
        }
        da_interval tokens = tokens_of(groups->tiles, groups->columns[k]);
        groups->rows[k] &= ~*rows;
        if (intervals > 0 && groups->intervals[intervals - 1].end == tokens.first) {
            groups->intervals[intervals - 1].end = tokens.end;
        } else {
            groups->intervals[intervals++] = tokens;
        }
    }
    return intervals;
}
