#include "pattern/tile_groups.h"

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
                          da_interval visible) {
    groups->tiles = tiles;
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

static void sort_columns(da_tile_groups *groups) {
    uint64_t rows;
    groups->count = groups->first = 0;
    while (groups->count < DA_GROUP_COLUMNS) {
        int64_t column = take_column(groups, &rows);
        if (column == INT64_MAX) {
            return;
        }
        groups->rows[groups->count] = rows;
        groups->columns[groups->count++] = (int32_t)column;
    }
}

static da_interval tokens_of(const da_tiles *tiles, int64_t column) {
    int64_t first = column * tiles->block_size;
    return (da_interval){first, tiles->block_size < tiles->n - first ? first + tiles->block_size : tiles->n};
}

int da_tile_groups_next(da_tile_groups *groups, uint64_t *rows) {
    int intervals = 0;
    while (groups->first < groups->count && groups->rows[groups->first] == 0) {
        groups->first++;
    }
    if (groups->first == groups->count) {
        sort_columns(groups);
    }
    if (groups->count == 0) {
        return 0;
    }
    *rows = groups->rows[groups->first];
    for (int k = groups->first; k < groups->count; k++) {
        if (groups->rows[k] != *rows) {
            continue;
        }
        da_interval tokens = tokens_of(groups->tiles, groups->columns[k]);
        groups->rows[k] = 0;
        if (intervals > 0 && groups->intervals[intervals - 1].end == tokens.first) {
            groups->intervals[intervals - 1].end = tokens.end;
        } else {
            groups->intervals[intervals++] = tokens;
        }
    }
    return intervals;
}
