/* The gradient of columns from the differences kept of several tiles (kernels.h: da_column_gradient): the product of
 * accumulate(), with the block's columns as rows and the tiles' rows as keys.
 * Included by products_real.inc.h. */

_Static_assert(DA_SPREAD_ROWS % TILE_ROWS == 0, "whole tiles");

#define LAST_COLUMNS (PANEL_KEYS % TILE_ROWS)

static void spread_panel(const real *differences, const da_column_gradient *columns, int padded_dim, real *sums) {
    int column = 0;
    for (; column + TILE_ROWS <= PANEL_KEYS; column += TILE_ROWS) {
        accumulate_rows(TILE_ROWS, differences + column, 1, PANEL_KEYS, 0, columns->rows, columns->keys, padded_dim,
                        sums + (int64_t)column * padded_dim);
    }
#if LAST_COLUMNS > 0
    accumulate_rows(LAST_COLUMNS, differences + column, 1, PANEL_KEYS, 0, columns->rows, columns->keys, padded_dim,
                    sums + (int64_t)column * padded_dim);
#endif
}

/* The same where a key is not finite, and a query may not see it. */
static void spread_panel_seen(const real *differences, const da_column_gradient *columns, int padded_dim, real *sums) {
    for (int row = 0; row < columns->rows; row++) {
        const real *key = (const real *)columns->keys + (int64_t)row * padded_dim;
        for (int column = 0; column < PANEL_KEYS; column++) {
            real difference = differences[row * PANEL_KEYS + column], *sum = sums + (int64_t)column * padded_dim;
            for (int c = 0; difference != 0 && c < padded_dim; c += VEC_LANES) {
                vec_store(sum + c, vec_fma(vec_set1(difference), vec_load(key + c), vec_load(sum + c)));
            }
        }
    }
}

static void spread_columns(const da_gradient_block *block, da_column_gradient *columns) {
    int padded_dim = block->first.padded_dim, panel_count = (block->first.count + PANEL_KEYS - 1) / PANEL_KEYS;
    for (int p = 0; p < panel_count; p++) {
        const real *differences = (const real *)columns->differences + (int64_t)p * DA_SPREAD_ROWS * PANEL_KEYS;
        real *sums = (real *)columns->sums + (int64_t)p * PANEL_KEYS * padded_dim;
        if (columns->seen[p] && columns->keys_finite) {
            spread_panel(differences, columns, padded_dim, sums);
        } else if (columns->seen[p]) {
            spread_panel_seen(differences, columns, padded_dim, sums);
        }
        columns->seen[p] = false;
    }
    columns->rows = 0;
}
