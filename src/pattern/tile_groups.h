/* The columns that tiles let some adjacent blocks of rows see, in groups: all columns of a group are seen by the same
 * blocks of rows. So a group can be gone through as the columns of a span are where nothing is left out.
 *
 * Where patterns keep so few of a group's columns that they would not fill a panel, its blocks are thin: they are put
 * together with the other thin ones of each block of rows, and so may be in several groups. */
#ifndef DA_PATTERN_TILE_GROUPS_H
#define DA_PATTERN_TILE_GROUPS_H

#include "pattern/schedule.h"
#include "pattern/tiles.h"

/* Blocks of rows at most, and blocks of columns that are sorted into groups at a time. */
#define DA_GROUP_ROWS 64
#define DA_GROUP_COLUMNS 128

typedef struct da_tile_groups {
    const da_tiles *tiles;
    const da_span *span;
    int row_count;
    const int32_t *next[DA_GROUP_ROWS], *end[DA_GROUP_ROWS]; /* of each row: tiles that are not yet sorted */
    int count, first;                                        /* blocks of columns sorted; one not yet in a group */
    int32_t columns[DA_GROUP_COLUMNS];
    uint64_t rows[DA_GROUP_COLUMNS]; /* that keep each and that it has not been in a group for */
    int64_t kept[DA_GROUP_COLUMNS];  /* columns of it that patterns keep, about */
    bool thin[DA_GROUP_COLUMNS];
    da_interval intervals[DA_GROUP_COLUMNS];
} da_tile_groups;

/* Begins with row_count blocks of rows from first_row on, numbered as by da_tiles_row, and with the columns that meet what is
 * visible. span: of these rows. */
void da_tile_groups_begin(da_tile_groups *groups, const da_tiles *tiles, int64_t first_row, int row_count,
                          const da_span *span);

/* The next group: its positions, in ascending order, go to groups->intervals, and their number is returned; bit r of *rows
 * is set if row first_row + r keeps them. 0: there is none left. */
int da_tile_groups_next(da_tile_groups *groups, uint64_t *rows);

#endif
