/* Tiles of patterns that do not look at data, over generated configurations: the universe against da_pattern_multiplicity
 * pair by pair, what each pattern keeps of it against its definition, counts against counting, and how columns are put into
 * groups. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention/block_sparse/cache.h"
#include "attention/block_sparse/patterns.h"
#include "attention/block_sparse/report.h"
#include "block_sparse/contexts.h"
#include "pattern/drawn.h"
#include "pattern/tile_groups.h"
#include "pattern/tile_universe.h"

#define BLOCK 16
#define MAX_BLOCKS (DRAWN_MAX_N / BLOCK + 1)
#define CONFIGURATIONS 300

static const da_sparse_pattern FIXED[] = {DA_SPARSE_LOCAL_WINDOW, DA_SPARSE_GLOBAL_LOCAL, DA_SPARSE_DILATED_SPARSE,
                                          DA_SPARSE_AXIAL,        DA_SPARSE_RANDOM,       DA_SPARSE_HYBRID};
enum { FIXED_COUNT = sizeof FIXED / sizeof *FIXED };

static const da_call_options SILENT = {.size = sizeof SILENT}; /* no progress is reported */

/* Pairs of each tile of one head, each pair once. */
typedef int64_t pair_table[MAX_BLOCKS][MAX_BLOCKS];

static void count_pairs(const drawn *d, int64_t head, pair_table pairs) {
    memset(pairs, 0, sizeof(pair_table));
    for (int64_t i = 0; i < d->n; i++) {
        for (int64_t j = 0; j < d->n; j++) {
            int64_t count = 0;
            assert_int_equal(da_pattern_multiplicity(&d->config, d->n, d->heads, head, i, j, &count), DA_OK);
            pairs[i / BLOCK][j / BLOCK] += count > 0;
        }
    }
}

static drawn next_problem(int number) {
    drawn d = drawn_next(number % 3 == 0 ? 0 : number); /* a third are long */
    d.config.block_size = BLOCK;
    return d;
}

typedef struct scratch_memory {
    da_sparse_scratch scratch;
    char *memory;
} scratch_memory;

static scratch_memory make_scratch(int64_t blocks) {
    scratch_memory made = {.memory = NULL};
    made.memory = calloc(1, da_sparse_scratch_lay_out(&made.scratch, NULL, blocks));
    assert_non_null(made.memory);
    da_sparse_scratch_lay_out(&made.scratch, made.memory, blocks);
    return made;
}

static void test_universe(void **state) {
    (void)state;
    static pair_table pairs;
    for (int number = 0; number < CONFIGURATIONS; number++) {
        drawn d = next_problem(number);
        da_head_patterns patterns;
        int64_t blocks = da_tile_blocks(d.n, BLOCK);
        uint8_t marks[MAX_BLOCKS] = {0};
        count_pairs(&d, d.head, pairs);
        da_head_patterns_init(&patterns, &d.config, d.n, d.heads, d.head);
        for (int64_t row = 0; row < blocks; row++) {
            int32_t columns[MAX_BLOCKS];
            int64_t count = da_tile_universe(&patterns, BLOCK, row, marks, columns), k = 0;
            assert_int_equal(da_tile_universe(&patterns, BLOCK, row, marks, NULL), count);
            for (int64_t column = 0; column < blocks; column++) {
                assert_int_equal(marks[column], 0);
                if (pairs[row][column] > 0) {
                    assert_true(k < count);
                    assert_int_equal(columns[k++], column);
                }
            }
            assert_int_equal(k, count);
        }
    }
}

/* ---- what patterns keep ------------------------------------------------------------------------------------------ */

/* A row with what is kept of it, by column: 0 outside the universe, 1 in it, 2 kept. */
typedef struct kept_row {
    const da_attention_config *config;
    int64_t row, blocks, universe, kept;
    int8_t marks[MAX_BLOCKS];
} kept_row;

static int64_t distance(const kept_row *r, int64_t column) {
    return llabs(column - r->row);
}

/* Of the columns that `belongs` says, none that is left out comes before one that is kept, by distance and then place. */
static void check_nearest_first(const kept_row *r, bool (*belongs)(const kept_row *r, int64_t column)) {
    for (int64_t a = 0; a < r->blocks; a++) {
        for (int64_t b = 0; b < r->blocks; b++) {
            bool first = distance(r, a) < distance(r, b) || (distance(r, a) == distance(r, b) && a < b);
            if (belongs(r, a) && belongs(r, b) && first && r->marks[a] == 1 && r->marks[b] == 2) {
                fail_msg("row %lld keeps %lld, not the nearer %lld", (long long)r->row, (long long)b, (long long)a);
            }
        }
    }
}

static bool is_any(const kept_row *r, int64_t column) {
    return true;
}

static bool is_not_global(const kept_row *r, int64_t column) {
    return column >= r->config->global_blocks;
}

static void check_global(const kept_row *r) {
    int64_t globals = 0, globals_kept = 0;
    for (int64_t column = 0; column < r->blocks && column < r->config->global_blocks; column++) {
        globals += r->marks[column] > 0;
        globals_kept += r->marks[column] == 2;
        /* In ascending order: one is kept only if those before are, or it is the own one. */
        assert_true(r->marks[column] != 2 || globals_kept == globals || column == r->row);
    }
    assert_int_equal(globals_kept, globals < r->kept - 1 ? globals : r->kept - 1);
    check_nearest_first(r, is_not_global);
}

/* Among the universe's indices, from the own one on and around, the t-th kept one is floor(t * universe / kept) away. */
static void check_every(const kept_row *r) {
    int64_t index_of[MAX_BLOCKS], columns[MAX_BLOCKS], count = 0;
    for (int64_t column = 0; column < r->blocks; column++) {
        index_of[column] = count;
        if (r->marks[column] > 0) {
            columns[count++] = column;
        }
    }
    for (int64_t t = 0; t < r->kept; t++) {
        int64_t index = (index_of[r->row] + t * r->universe / r->kept) % r->universe;
        assert_int_equal(r->marks[columns[index]], 2);
    }
}

static void check_axial(const kept_row *r, double ratio) {
    int64_t width = 1, in_line = 0, kept_in_line = 0;
    while (width * width < r->blocks) {
        width++;
    }
    while (width < r->blocks && (double)(width + (r->blocks - 1) / width) < ratio * (double)r->blocks) {
        width++;
    }
    kept_row line = *r, rest = *r;
    for (int64_t column = 0; column < r->blocks; column++) {
        bool shares = column / width == r->row / width || column % width == r->row % width;
        in_line += shares && r->marks[column] > 0;
        kept_in_line += shares && r->marks[column] == 2;
        kept_row *without = shares ? &rest : &line;
        without->marks[column] = 0;
    }
    assert_int_equal(kept_in_line, in_line < r->kept ? in_line : r->kept);
    check_nearest_first(&line, is_any);
    check_nearest_first(&rest, is_any);
}

static void check_hybrid(const kept_row *r) {
    int64_t globals = 0, nearest = 0;
    for (int64_t column = 0; column < r->blocks && r->marks[column] != 1; column++) {
        globals += r->marks[column] == 2;
    }
    kept_row near = *r;
    for (int64_t away = 0; away < r->blocks; away++) {
        const int64_t sides[2] = {r->row - away, r->row + away};
        for (int k = 0; k < (away > 0 ? 2 : 1); k++) {
            if (sides[k] < 0 || sides[k] >= r->blocks || r->marks[sides[k]] == 0) {
                continue;
            }
            if (r->marks[sides[k]] == 1) {
                away = r->blocks;
                break;
            }
            nearest++;
        }
    }
    assert_true(near.marks[r->row] == 2 && globals >= r->kept / 3 && nearest >= r->kept - 2 * (r->kept / 3));
}

static void check_pattern(const kept_row *r, const da_sparse_rule *rule) {
    assert_int_equal(r->marks[r->row], 2); /* the own block */
    switch (rule->pattern) {
    case DA_SPARSE_LOCAL_WINDOW: check_nearest_first(r, is_any); break;
    case DA_SPARSE_GLOBAL_LOCAL: check_global(r); break;
    case DA_SPARSE_DILATED_SPARSE: check_every(r); break;
    case DA_SPARSE_AXIAL: check_axial(r, rule->ratio); break;
    case DA_SPARSE_HYBRID: check_hybrid(r); break;
    default: /* random: see test_draws */ break;
    }
}

static void check_kept_row(const drawn *d, const da_sparse_rule *rule, int64_t row, const int32_t *columns,
                           int64_t count, pair_table pairs) {
    kept_row r = {.config = &d->config, .row = row, .blocks = da_tile_blocks(d->n, BLOCK), .kept = count};
    for (int64_t column = 0; column < r.blocks; column++) {
        r.marks[column] = pairs[row][column] > 0;
        r.universe += r.marks[column];
    }
    for (int64_t k = 0; k < count; k++) {
        assert_true(columns[k] >= 0 && columns[k] < r.blocks && (k == 0 || columns[k] > columns[k - 1]));
        assert_int_equal(r.marks[columns[k]], 1);
        r.marks[columns[k]] = 2;
    }
    bool whole = rule->pattern == DA_SPARSE_GLOBAL_LOCAL && row < d->config.global_blocks;
    int64_t wanted = 1;
    while ((double)wanted < rule->ratio * (double)r.universe * (1 - 1e-12)) {
        wanted++;
    }
    wanted = whole || wanted > r.universe ? r.universe : wanted;
    assert_int_equal(count, wanted);
    if (count > 0 && !whole) {
        check_pattern(&r, rule);
    }
}

static void test_patterns(void **state) {
    (void)state;
    static pair_table pairs;
    const double ratios[] = {0.1, 0.3, 0.5, 0.7, 0.01, 1};
    for (int number = 0; number < CONFIGURATIONS; number++) {
        drawn d = next_problem(number);
        const da_sparse_rule rule = {FIXED[number % FIXED_COUNT], ratios[number / FIXED_COUNT % 6]};
        da_head_patterns patterns;
        int64_t blocks = da_tile_blocks(d.n, BLOCK);
        scratch_memory made = make_scratch(blocks);
        d.config.global_blocks = number % 4;
        d.config.sparse_seed = (uint64_t)number;
        count_pairs(&d, d.head, pairs);
        da_head_patterns_init(&patterns, &d.config, d.n, d.heads, d.head);
        for (int64_t row = 0; row < blocks; row++) {
            int32_t columns[MAX_BLOCKS];
            int64_t count = da_sparse_row(&d.config, &rule, &patterns, d.head, row, &made.scratch, columns);
            check_kept_row(&d, &rule, row, columns, count, pairs);
            assert_int_equal(da_sparse_row(&d.config, &rule, &patterns, d.head, row, &made.scratch, NULL), count);
        }
        free(made.memory);
    }
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

static bool equal_tiles(const da_tiles *a, const da_tiles *b) {
    return a->batch == b->batch && a->heads == b->heads && a->n == b->n && a->block_size == b->block_size &&
           da_tiles_count(a) == da_tiles_count(b) &&
           memcmp(a->row_starts, b->row_starts, (size_t)(da_tiles_rows(a) + 1) * sizeof *a->row_starts) == 0 &&
           memcmp(a->columns, b->columns, (size_t)da_tiles_count(a) * sizeof *a->columns) == 0;
}

static da_attention_config dense_config(int64_t segment, int64_t rate) {
    da_attention_config config;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, &segment, 1, &rate, 1), DA_OK);
    config.block_size = BLOCK;
    return config;
}

/* Rows of lists are those of da_sparse_row, whatever the number of threads. */
static void test_lists(void **state) {
    (void)state;
    enum { N = 2500, HEADS = 3, BATCH = 2 };
    da_context *contexts[2] = {make_context(1, DA_ISA_AUTO, NULL), make_context(5, DA_ISA_AUTO, NULL)};
    const da_attention_config config = dense_config(N, 2);
    da_sparse_rule rules[BATCH * HEADS];
    for (int s = 0; s < BATCH * HEADS; s++) {
        rules[s] = (da_sparse_rule){FIXED[s], 0.05 * (s + 1)};
    }
    da_tiles lists[2];
    for (int k = 0; k < 2; k++) {
        assert_int_equal(da_sparse_list(contexts[k], &config, N, HEADS, BATCH, HEADS, rules, false, &SILENT, &lists[k]),
                         DA_OK);
    }
    assert_true(equal_tiles(&lists[0], &lists[1]));
    scratch_memory made = make_scratch(lists[0].blocks);
    int32_t columns[N / BLOCK + 1];
    for (int64_t s = 0; s < BATCH * HEADS; s++) {
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, &config, N, HEADS, s % HEADS);
        for (int64_t row = 0; row < lists[0].blocks; row++) {
            int64_t at = da_tiles_row(&lists[0], s / HEADS, s % HEADS, row), start = lists[0].row_starts[at];
            int64_t count = da_sparse_row(&config, &rules[s], &patterns, s % HEADS, row, &made.scratch, columns);
            assert_int_equal(lists[0].row_starts[at + 1] - start, count);
            assert_memory_equal(columns, lists[0].columns + start, (size_t)count * sizeof *columns);
        }
    }
    free(made.memory);
    for (int k = 0; k < 2; k++) {
        da_tiles_release(&lists[k], NULL);
        da_context_free(contexts[k]);
    }
}

/* Draws differ by head, row and seed, keep each block about equally often, and come again. */
static void test_draws(void **state) {
    (void)state;
    enum { N = 64 * BLOCK, HEADS = 40 };
    da_context *context = make_context(2, DA_ISA_AUTO, NULL);
    da_attention_config config = dense_config(N, 1);
    const da_sparse_rule rule = {DA_SPARSE_RANDOM, 0.25};
    da_tiles first, again, other;
    int64_t times[64] = {0};
    assert_int_equal(da_sparse_list(context, &config, N, HEADS, 1, HEADS, &rule, true, &SILENT, &first), DA_OK);
    assert_int_equal(da_sparse_list(context, &config, N, HEADS, 1, HEADS, &rule, true, &SILENT, &again), DA_OK);
    config.sparse_seed = 1;
    assert_int_equal(da_sparse_list(context, &config, N, HEADS, 1, HEADS, &rule, true, &SILENT, &other), DA_OK);
    assert_true(equal_tiles(&first, &again));
    assert_false(equal_tiles(&first, &other));
    assert_memory_not_equal(first.columns, first.columns + 64 * 16, 64 * 16 * sizeof *first.columns);
    for (int64_t k = 0; k < da_tiles_count(&first); k++) {
        times[first.columns[k]]++;
    }
    for (int column = 0; column < 64; column++) {
        /* Its own row keeps it in each head; of the other 63, about 15 of 63 do: 600 +- 21. */
        assert_in_range(times[column] - HEADS, 600 - 6 * 22, 600 + 6 * 22);
    }
    da_tiles *all[] = {&first, &again, &other};
    for (int k = 0; k < 3; k++) {
        da_tiles_release(all[k], NULL);
    }
    da_context_free(context);
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

/* Groups have each tile of the rows once, all of a group by the same rows, in ascending stretches. */
static void check_groups(const da_tiles *tiles, int64_t first_row, int rows, const da_span *span) {
    da_interval visible = da_span_visible(span);
    static uint8_t seen[DA_GROUP_ROWS][512];
    da_tile_groups groups;
    uint64_t by;
    memset(seen, 0, sizeof seen);
    da_tile_groups_begin(&groups, tiles, first_row, rows, span);
    for (int count; (count = da_tile_groups_next(&groups, &by)) > 0;) {
        assert_true(by != 0 && (rows == 64 || by >> rows == 0));
        for (int k = 0; k < count; k++) {
            da_interval stretch = groups.intervals[k];
            assert_true(k == 0 || stretch.first > groups.intervals[k - 1].end);
            assert_true(stretch.first % BLOCK == 0 && (stretch.end % BLOCK == 0 || stretch.end == tiles->n));
            for (int64_t block = stretch.first / BLOCK; block * BLOCK < stretch.end; block++) {
                for (int r = 0; r < rows; r++) {
                    seen[r][block] += by >> r & 1;
                }
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        const int32_t *column = tiles->columns + tiles->row_starts[first_row + r];
        const int32_t *end = tiles->columns + tiles->row_starts[first_row + r + 1];
        for (int64_t block = 0; block < tiles->blocks; block++) {
            bool kept = column < end && *column == block;
            bool meets = block * BLOCK < visible.end && (block + 1) * BLOCK > visible.first;
            column += kept;
            assert_int_equal(seen[r][block], kept && meets);
        }
    }
}

static void test_groups(void **state) {
    (void)state;
    enum { BLOCKS = 400, N = BLOCKS * BLOCK - 3 };
    static uint8_t kept[BLOCKS][BLOCKS];
    for (int round = 0; round < 12; round++) {
        da_tile_mask *mask;
        int64_t density = round % 4 == 3 ? 100 : drawn_below(60);
        for (int row = 0; row < BLOCKS; row++) {
            for (int column = 0; column < BLOCKS; column++) {
                int like = round % 2 ? row / 5 : row; /* rows that are alike, too */
                kept[row][column] = like != row && row % 5 ? kept[row - 1][column] : drawn_below(100) < density;
            }
        }
        assert_int_equal(da_tile_mask_create(NULL, 1, 1, N, BLOCK, &kept[0][0], &mask), DA_OK);
        for (int part = 0; part < 20; part++) {
            int rows = (int)(1 + drawn_below(DA_GROUP_ROWS));
            int64_t first = drawn_below(BLOCKS - rows);
            da_attention_config config = dense_config(N, part % 5 + 1); /* few columns of a block, and many */
            da_head_patterns patterns;
            da_span span;
            config.causal = part % 3 == 0;
            config.window = part % 2 ? drawn_below(N) : DA_NO_WINDOW;
            da_head_patterns_init(&patterns, &config, N, 1, 0);
            da_span_begin(&span, &patterns, first * BLOCK, (first + rows) * BLOCK);
            if (part % 7 == 0) {
                da_span_reverse(&span);
            }
            check_groups(da_tile_mask_tiles(mask), first, rows, &span);
        }
        da_tile_mask_free(mask);
    }
}

/* ---- counts ------------------------------------------------------------------------------------------------------ */

static void test_counts(void **state) {
    (void)state;
    static pair_table pairs;
    da_context *context = make_context(3, DA_ISA_AUTO, NULL);
    for (int number = 0; number < CONFIGURATIONS / 5; number++) {
        drawn d = next_problem(number);
        int64_t blocks = da_tile_blocks(d.n, BLOCK), heads = number % 2 ? 1 : d.heads, batch = 1 + number % 3;
        uint8_t *kept = calloc((size_t)(heads * blocks * blocks), 1);
        da_tile_mask *mask;
        da_sparse_report report;
        int64_t tiles_all = 0, tiles_kept = 0, pairs_all = 0, pairs_kept = 0;
        da_sparse_report_init(&report);
        for (int64_t k = 0; k < heads * blocks * blocks; k++) {
            kept[k] = drawn_below(3) == 0;
        }
        assert_int_equal(da_tile_mask_create(NULL, 1, heads, d.n, BLOCK, kept, &mask), DA_OK);
        for (int64_t h = 0; h < d.heads; h++) {
            count_pairs(&d, h, pairs);
            for (int64_t tile = 0; tile < blocks * blocks; tile++) {
                int64_t inside = pairs[tile / blocks][tile % blocks];
                bool is_kept = kept[(heads == 1 ? 0 : h) * blocks * blocks + tile];
                tiles_all += inside > 0;
                tiles_kept += inside > 0 && is_kept;
                pairs_all += inside;
                pairs_kept += is_kept ? inside : 0;
            }
        }
        assert_int_equal(da_sparse_count(context, &d.config, da_tile_mask_tiles(mask), batch, d.heads, &report), DA_OK);
        assert_int_equal(report.tiles_all, batch * tiles_all);
        assert_int_equal(report.tiles_kept, batch * tiles_kept);
        assert_true(report.pairs_all == (double)(batch * pairs_all));
        assert_true(report.pairs_kept == (double)(batch * pairs_kept));
        da_tile_mask_free(mask);
        free(kept);
    }
    da_context_free(context);
}

/* ---- what a handle keeps ----------------------------------------------------------------------------------------- */

static void test_cache(void **state) {
    (void)state;
    counting_allocator counter = {0};
    da_context *context = make_context(1, DA_ISA_AUTO, &counter);
    da_attention_config config = dense_config(2000, 1);
    da_tile_cache *cache;
    da_cached_tiles *first, *again, *other;
    long before = counter.live;
    config.sparse_pattern = DA_SPARSE_AXIAL;
    assert_int_equal(da_tile_cache_create(context, &config, &cache), DA_OK);
    assert_int_equal(da_tile_cache_take(cache, 500, 2, &SILENT, &first), DA_OK);
    long made = counter.calls;
    assert_int_equal(da_tile_cache_take(cache, 500, 2, &SILENT, &again), DA_OK);
    assert_int_equal(counter.calls, made); /* nothing was made */
    assert_ptr_equal(da_cached_tiles_list(first), da_cached_tiles_list(again));
    assert_int_equal(da_cached_tiles_list(first)->heads, 1); /* all heads are alike */
    da_tile_cache_give_back(cache, again);
    for (int64_t n = 1; n <= 3 * DA_CACHED_SHAPES; n++) { /* the first is dropped, but it is in use */
        assert_int_equal(da_tile_cache_take(cache, 100 * n + 7, 2, &SILENT, &other), DA_OK);
        da_tile_cache_give_back(cache, other);
    }
    assert_int_equal(da_cached_tiles_list(first)->n, 500);
    assert_int_equal(da_cached_tiles_list(first)->row_starts[0], 0);
    assert_in_range(counter.live - before, 1, 1 + 3 * (DA_CACHED_SHAPES + 1)); /* bounded */
    da_tile_cache_give_back(cache, first);
    da_tile_cache_free(cache);
    da_tile_cache_free(NULL);
    assert_int_equal(counter.live, before);
    da_context_free(context);
}

enum { TAKERS = 6, TAKES = 60 };

static void *take_many(void *argument) {
    da_tile_cache *cache = argument;
    for (int64_t k = 0; k < TAKES; k++) {
        da_cached_tiles *cached;
        int64_t n = 200 + 50 * (k % (DA_CACHED_SHAPES + 2));
        if (da_tile_cache_take(cache, n, 1, &SILENT, &cached) != DA_OK || da_cached_tiles_list(cached)->n != n ||
            da_tiles_count(da_cached_tiles_list(cached)) < da_tile_blocks(n, BLOCK)) {
            return argument;
        }
        da_tile_cache_give_back(cache, cached);
    }
    return NULL;
}

static void test_cache_of_many_threads(void **state) {
    (void)state;
    counting_allocator counter = {0};
    da_context *context = make_context(1, DA_ISA_AUTO, &counter);
    da_attention_config config = dense_config(2000, 1);
    da_tile_cache *cache;
    pthread_t takers[TAKERS];
    long before = counter.live;
    config.sparse_pattern = DA_SPARSE_RANDOM;
    assert_int_equal(da_tile_cache_create(context, &config, &cache), DA_OK);
    for (int k = 0; k < TAKERS; k++) {
        assert_int_equal(pthread_create(&takers[k], NULL, take_many, cache), 0);
    }
    for (int k = 0; k < TAKERS; k++) {
        void *failed;
        assert_int_equal(pthread_join(takers[k], &failed), 0);
        assert_null(failed);
    }
    da_tile_cache_free(cache);
    assert_int_equal(counter.live, before);
    da_context_free(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_universe), cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_lists),    cmocka_unit_test(test_draws),
        cmocka_unit_test(test_groups),   cmocka_unit_test(test_counts),
        cmocka_unit_test(test_cache),    cmocka_unit_test(test_cache_of_many_threads),
    };
    return cmocka_run_group_tests_name("fixed tiles", tests, NULL, NULL);
}
