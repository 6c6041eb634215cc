#include "attention/improved/unit.h"

#include "attention/improved/packed.h"

#include <math.h>
#include <string.h>

#include "core/compiler.h"
#include "core/dtype.h"
#include "core/numbers.h"
#include "core/tensor.h"

/* Rows of a unit: the more of them, the more often a packed column is used. What they are packed to, and their
 * accumulators, take UNIT_BYTES. */
#define UNIT_BYTES (2 * 1024 * 1024)
#define UNIT_MAX_ROWS 2048

#define CACHE_LINE 64
#define PREFETCH_ROWS 16 /* how far ahead of their use rows of tensors are asked for */

_Static_assert(DA_BLOCK_KEYS <= DA_MAX_BLOCK_KEYS && UNIT_MAX_ROWS <= DA_MAX_UNIT, "a tuning must reach the defaults");

/* ---- cutting and memory ------------------------------------------------------------------------------------------ */

/* Whole blocks of tiles, where one fits. */
static int64_t choose_unit(const da_tuning *tuning, int64_t n, int64_t sequences, int64_t largest, int64_t tile_block) {
    int64_t unit = da_schedule_unit(n, sequences, largest);
    if (tuning->unit != 0) {
        unit = tuning->unit < largest ? tuning->unit : largest;
        unit = unit < n ? unit : n;
    }
    return tile_block > 0 && unit > tile_block ? unit / tile_block * tile_block : unit;
}

/* Classes that the rows of a unit can fall into: each pattern of a rate above 1 keeps a row or not, in each of the
 * segments, and of the blocks of tiles, that the unit meets. */
static int64_t most_classes(const da_attention_config *config, int64_t unit, int64_t tile_block) {
    int64_t most = unit < DA_MAX_CLASSES ? unit : DA_MAX_CLASSES, kept_or_not = 1;
    int64_t pieces = tile_block > 0 ? 2 + (unit - 1) / tile_block : 1;
    for (size_t p = 0; p < config->segment_count && pieces * kept_or_not < most; p++) {
        pieces += unit / config->segment_lengths[p] + 1; /* edges of segments within the unit */
        kept_or_not *= config->dilation_rates[p] == 1 ? 1 : 2;
    }
    return pieces * kept_or_not < most ? pieces * kept_or_not : most;
}

void da_unit_cut_init(da_unit_cut *cut, const da_kernels *kernels, const da_attention_config *config,
                      const da_problem *problem, int64_t sequences, int row_arrays, int64_t tile_block) {
    const da_tuning *tuning = &config->tuning;
    int block_keys = tuning->block_keys;
    int64_t n = da_problem_length(problem);
    cut->kernels = kernels;
    cut->head_dim = (int)problem->head_dim;
    cut->padded_dim = da_unit_padded_dim(kernels, cut->head_dim);
    int64_t largest = UNIT_BYTES / (row_arrays * cut->padded_dim * (int64_t)kernels->real_size);
    largest = largest < UNIT_MAX_ROWS ? largest : UNIT_MAX_ROWS;
    cut->unit = choose_unit(tuning, n, sequences, largest, tile_block);
    cut->unit_count = (n - 1) / cut->unit + 1;
    cut->block_keys = block_keys > 0 && block_keys < DA_BLOCK_KEYS ? block_keys : DA_BLOCK_KEYS;
    cut->most_classes = (int)most_classes(config, cut->unit, tile_block);
    /* Each class may leave its last tile part empty. */
    size_t tile = (size_t)kernels->tile_rows;
    cut->rows = ((size_t)cut->unit + (size_t)cut->most_classes * (tile - 1) + tile - 1) / tile * tile;
    cut->clear_memory = cut->head_dim % DA_WIDEST_STEP != 0;
}

static int64_t units_of(const da_unit_cut *cut, const da_piece *piece) {
    return (piece->end - piece->first + cut->unit - 1) / cut->unit;
}

void da_unit_cut_part(da_unit_cut *cut, const da_part *part) {
    cut->unit_count = 0;
    for (int64_t p = 0; p < part->piece_count; p++) {
        cut->unit_count += units_of(cut, &part->pieces[p]);
    }
}

da_piece da_unit_piece(const da_unit_cut *cut, const da_part *part, int64_t index) {
    const da_piece *piece = part->pieces;
    for (; index >= units_of(cut, piece); piece++) {
        index -= units_of(cut, piece);
    }
    int64_t from = index * cut->unit, first = piece->first + from;
    return (da_piece){first, piece->end - first < cut->unit ? piece->end : first + cut->unit, piece->row + from};
}

static void lay_out_columns(da_columns *columns, da_arena *arena) {
    columns->positions = da_arena_take(arena, DA_BLOCK_KEYS, sizeof *columns->positions);
    columns->rows = da_arena_take(arena, DA_BLOCK_KEYS, sizeof *columns->rows);
    columns->sources = da_arena_take(arena, DA_BLOCK_KEYS, sizeof *columns->sources);
    columns->held_in = da_arena_take(arena, DA_BLOCK_KEYS, sizeof *columns->held_in);
}

void da_unit_lay_out(da_unit *unit, da_arena *arena, const da_unit_cut *cut) {
    unit->class_of = da_arena_take(arena, (size_t)cut->unit, sizeof *unit->class_of);
    unit->row_positions = da_arena_take(arena, cut->rows, sizeof *unit->row_positions);
    unit->bias = da_arena_take(arena, DA_BLOCK_KEYS, cut->kernels->real_size);
    unit->multiplicities = da_arena_take(arena, DA_BLOCK_KEYS, sizeof *unit->multiplicities);
    lay_out_columns(&unit->columns, arena);
    lay_out_columns(&unit->next, arena);
}

void da_block_lay_out(da_key_block *block, da_arena *arena, const da_unit_cut *cut) {
    size_t real = cut->kernels->real_size, padded = (size_t)cut->padded_dim;
    *block = (da_key_block){.head_dim = cut->head_dim, .padded_dim = cut->padded_dim};
    block->staged = da_arena_take(arena, (size_t)cut->kernels->panel_keys * padded, real);
    block->panels = da_arena_take(arena, DA_BLOCK_KEYS * padded, real);
    block->values = da_arena_take(arena, DA_BLOCK_KEYS * padded, real);
    block->positions = da_arena_take(arena, DA_BLOCK_KEYS, sizeof *block->positions);
    block->tokens = da_arena_take(arena, DA_BLOCK_KEYS, sizeof *block->tokens);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static bool row_is_absent(const da_unit *unit, int64_t position) {
    return unit->pass->row_is_absent && unit->pass->row_is_absent(unit->worker, position);
}

/* The block of tiles that a row lies in; 0 without tiles. */
static int64_t block_of(const da_unit *unit, int64_t position) {
    return unit->tiles ? position / unit->tiles->block_size : 0;
}

/* Index of the class of a row kept in `kept_in`; a new one if there is none and room for one; -1 if there is no room. */
static int find_class(da_unit *unit, da_segment_set kept_in, int64_t block) {
    /* Blocks come one after the other: the last classes are those of the row's. */
    for (int c = unit->class_count - 1; c >= 0 && unit->classes[c].block == block; c--) {
        if (unit->classes[c].kept_in == kept_in) {
            return c;
        }
    }
    if (unit->class_count == unit->cut->most_classes) {
        return -1;
    }
    unit->classes[unit->class_count] = (da_row_class){.kept_in = kept_in, .block = block};
    return unit->class_count++;
}

/* Finds the classes of the span's rows; where there is no room for another, the span ends. */
static void find_classes(da_unit *unit) {
    unit->class_count = 0;
    for (int64_t i = unit->span.first; i < unit->span.end; i++) {
        if (row_is_absent(unit, i)) {
            continue;
        }
        int c = find_class(unit, da_span_kept_in(&unit->span, i), block_of(unit, i));
        if (c < 0) {
            unit->span.end = i;
            return;
        }
        unit->classes[c].row_count++;
        unit->class_of[i - unit->span.first] = (uint8_t)c;
    }
}

/* What the schedule takes for classes: without tiles they are. */
static void find_kinds(da_unit *unit) {
    unit->kind_count = 0;
    for (int c = 0; c < unit->class_count; c++) {
        int kind = 0;
        while (kind < unit->kind_count && unit->kinds[kind] != unit->classes[c].kept_in) {
            kind++;
        }
        if (kind == unit->kind_count) {
            unit->kinds[unit->kind_count] = unit->classes[c].kept_in;
            unit->classes_of_kind[unit->kind_count++] = 0;
        }
        unit->classes_of_kind[kind] |= (uint64_t)1 << c;
    }
}

/* Gives each class its rows, a whole number of tiles, and each row its position. */
static void place_rows(da_unit *unit) {
    int next_row = 0;
    for (int c = 0; c < unit->class_count; c++) {
        da_row_class *class = &unit->classes[c];
        class->first_row = next_row;
        next_row += da_unit_padded_rows(unit, class);
        class->row_count = 0;
    }
    for (int64_t i = unit->span.first; i < unit->span.end; i++) {
        if (!row_is_absent(unit, i)) {
            da_row_class *class = &unit->classes[unit->class_of[i - unit->span.first]];
            unit->row_positions[class->first_row + class->row_count++] = (int)(i - unit->span.first);
        }
    }
}

/* Rows lie far apart, where no hardware prefetcher follows. Asks for row first of a class to row end - 1, as far as there are. */
static void prefetch_rows(const da_unit *unit, const da_row_class *class, const da_tensor *tensor, int64_t head,
                          int first, int end) {
    size_t bytes = (size_t)tensor->shape[3] * da_dtype_size(tensor->dtype);
    for (int row = first; row < end && row < class->row_count; row++) {
        int64_t i = da_unit_tensor_row(unit, class->first_row + row);
        const char *at = da_tensor_row(tensor, unit->batch, i, head);
        for (size_t line = 0; line < bytes; line += CACHE_LINE) {
            PREFETCH(at + line);
        }
    }
}

void da_unit_pack(const da_unit *unit, const da_row_class *class, const da_tensor *tensor, int64_t head, double factor,
                  char *packed) {
    const da_kernels *kernels = unit->cut->kernels;
    int tile_rows = kernels->tile_rows, rows = da_unit_padded_rows(unit, class);
    size_t row_bytes = da_unit_row_bytes(unit);
    char *first = packed + (size_t) class->first_row * row_bytes;
    /* Rows that the last tile does not use hold zeros. */
    memset(first + (size_t)(rows - tile_rows) * row_bytes, 0, (size_t)tile_rows * row_bytes);
    prefetch_rows(unit, class, tensor, head, 0, PREFETCH_ROWS);
    for (int row = 0; row < class->row_count; row++) {
        prefetch_rows(unit, class, tensor, head, row + PREFETCH_ROWS, row + PREFETCH_ROWS + 1);
        int64_t i = da_unit_tensor_row(unit, class->first_row + row);
        kernels->pack_query(da_tensor_row(tensor, unit->batch, i, head), tensor->stride[3], tensor->dtype,
                            unit->cut->head_dim, factor, row % tile_rows,
                            first + (size_t)(row / tile_rows * tile_rows) * row_bytes);
    }
}

void da_unit_finish_tiles(const da_unit *unit, const da_row_class *class, char *accumulators) {
    const da_kernels *kernels = unit->cut->kernels;
    for (int row = 0; row < class->row_count && kernels->finish_tile; row += kernels->tile_rows) {
        kernels->finish_tile(accumulators + (size_t)(class->first_row + row) * da_unit_row_bytes(unit),
                             unit->cut->padded_dim);
    }
}

/* ---- columns ----------------------------------------------------------------------------------------------------- */

/* A position relative to the span, as the kernels compare it; exact up to 2^30 tokens away, and beyond that still on
 * the right side of every bound that causality or a window of at most 2^30 sets. */
static int32_t relative_position(const da_unit *unit, int64_t position) {
    const int64_t limit = (int64_t)1 << 30;
    int64_t relative = position - unit->span.first;
    return (int32_t)(relative > limit ? limit : relative < -limit ? -limit : relative);
}

void da_unit_describe_tile(const da_unit *unit, const da_row_class *class, int row, da_query_tile *tile) {
    const da_span *span = &unit->span;
    int tile_rows = unit->cut->kernels->tile_rows, rows = class->row_count - row;
    tile->rows = rows < tile_rows ? rows : tile_rows;
    for (int r = 0; r < tile->rows; r++) {
        int64_t i = da_unit_row_position(unit, class->first_row + row + r);
        tile->last_visible[r] =
            span->sees_after < INT64_MAX - i ? relative_position(unit, i + span->sees_after) : INT32_MAX - 1;
        tile->first_visible[r] = span->sees_before < i ? relative_position(unit, i - span->sees_before) : INT32_MIN;
        tile->tokens[r] = (uint32_t)i;
    }
    tile->bias = unit->bias;
    tile->dropout = unit->dropout.applies ? &unit->dropout : NULL;
    tile->rows_are_keys = unit->pass->rows_are_keys;
}

/* The bias of the block's columns for the rows of a class: mostly it is as it was. */
static void set_class_bias(da_unit *unit, const da_row_class *class) {
    uint8_t multiplicities[DA_BLOCK_KEYS];
    const da_segment_set *held_in = unit->columns.held_in;
    int count = unit->columns.count;
    for (int column = 0, end; column < count; column = end) {
        end = column + 1;
        while (end < count && held_in[end] == held_in[column]) {
            end++;
        }
        int multiplicity = da_span_multiplicity(&unit->span, class->kept_in, held_in[column]);
        memset(multiplicities + column, multiplicity, (size_t)(end - column));
    }
    if (count == unit->bias_count && memcmp(multiplicities, unit->multiplicities, (size_t)count) == 0) {
        return;
    }
    memcpy(unit->multiplicities, multiplicities, (size_t)count);
    unit->bias_count = count;
    unit->cut->kernels->set_bias(multiplicities, count, unit->bias);
}

static da_row_range rows_of(const da_unit *unit, const da_source *source, int which) {
    const da_tensor *tensor = &source->tensors[which];
    int64_t element = (int64_t)da_dtype_size(tensor->dtype);
    return (da_row_range){da_tensor_row(tensor, unit->batch, 0, unit->column_head), tensor->stride[1] * element,
                          (size_t)(tensor->shape[3] * element)};
}

/* Asks for the rows of some more of the columns that have been visited: all at once would be more than can be under way. */
static void prefetch_next(da_unit *unit, int count) {
    const da_columns *next = &unit->next;
    if (unit->packed) { /* they lie one after the other */
        return;
    }
    int end = count < next->count - unit->prefetched ? unit->prefetched + count : next->count;
    for (; unit->prefetched < end; unit->prefetched++) {
        const da_source *source = next->sources[unit->prefetched];
        if (source != unit->next_source) {
            unit->next_source = source;
            unit->next_rows[DA_FIRST] = rows_of(unit, source, DA_FIRST);
            unit->next_rows[DA_SECOND] = rows_of(unit, source, DA_SECOND);
        }
        for (int which = DA_FIRST; which <= DA_SECOND; which++) {
            const da_row_range *rows = &unit->next_rows[which];
            for (size_t line = 0; line < rows->bytes; line += CACHE_LINE) {
                PREFETCH_FOR_LATER(rows->first + next->rows[unit->prefetched] * rows->step + line);
            }
        }
    }
}

/* Takes the block against the tiles of a class that see a column of it. */
static void attend_class(da_unit *unit, const da_row_class *class) {
    const da_span *span = &unit->span;
    int tile_rows = unit->cut->kernels->tile_rows;
    /* Columns and rows are in ascending order. */
    int64_t first_column = unit->columns.positions[0], last_column = unit->columns.positions[unit->columns.count - 1];
    set_class_bias(unit, class);
    for (int row = 0; row < class->row_count; row += tile_rows) {
        int last_row = row + tile_rows < class->row_count ? row + tile_rows - 1 : class->row_count - 1;
        int64_t first = da_unit_row_position(unit, class->first_row + row);
        int64_t last = da_unit_row_position(unit, class->first_row + last_row);
        bool all_later = first_column > last && span->sees_after < first_column - last;
        bool all_too_early = last_column < first && span->sees_before < first - last_column;
        if (!all_later && !all_too_early) {
            prefetch_next(unit, unit->prefetch_share);
            unit->pass->attend_tile(unit->worker, class, row);
        }
    }
    if (unit->pass->leave_class) {
        unit->pass->leave_class(unit->worker);
    }
}

/* How many columns from `first` on lie at the same distance from each other, in the sequence and in one source's memory. */
static int length_of_run(const da_unit *unit, int first) {
    const da_columns *columns = &unit->columns;
    const int64_t *positions = columns->positions, *rows = columns->rows;
    int end = first + 1;
    while (end < columns->count && columns->sources[end] == columns->sources[first] &&
           positions[end] - positions[end - 1] == positions[first + 1] - positions[first] &&
           rows[end] - rows[end - 1] == rows[first + 1] - rows[first]) {
        end++;
    }
    int64_t span = relative_position(unit, positions[end - 1]) - (int64_t)relative_position(unit, positions[first]);
    return span == positions[end - 1] - positions[first] ? end - first : 1; /* limits bend what is far off */
}

static void gather_rows(const da_unit *unit, int key, int value, da_key_block *block) {
    const da_columns *columns = &unit->columns;
    const da_source *from = NULL;
    da_row_range keys = {0}, values = {0};
    da_key_source source = {0};
    block->count = 0;
    for (int k = 0; k < columns->count; k += source.count) {
        int64_t position = columns->positions[k], row = columns->rows[k];
        if (columns->sources[k] != from) {
            from = columns->sources[k];
            keys = rows_of(unit, from, key);
            values = rows_of(unit, from, value);
            source.key_stride = from->tensors[key].stride[3];
            source.value_stride = from->tensors[value].stride[3];
            source.dtype = from->tensors[key].dtype;
        }
        source.count = length_of_run(unit, k);
        int64_t row_step = source.count > 1 ? columns->rows[k + 1] - row : 0;
        source.key = keys.first + row * keys.step;
        source.value = values.first + row * values.step;
        source.key_step = row_step * keys.step;
        source.value_step = row_step * values.step;
        source.position = relative_position(unit, position);
        source.position_step = source.count > 1 ? (int32_t)(columns->positions[k + 1] - position) : 0;
        source.token = (uint32_t)position;
        unit->cut->kernels->append_keys(block, &source);
    }
    unit->cut->kernels->close_block(block);
}

/* Does the class see all of the columns first..end-1? */
static bool sees_all(const da_columns *columns, da_segment_set kept_in, int first, int end) {
    da_segment_set others = 0;
    for (int k = first; k < end; k++) {
        others |= columns->held_in[k] ^ columns->held_in[first];
    }
    bool all = (columns->held_in[first] & kept_in) != 0;
    for (int k = first; others != 0 && k < end; k++) {
        all = all && (columns->held_in[k] & kept_in) != 0;
    }
    return all;
}

/* Says where columns first..end-1 of a block, which is the one class's, are: a panel. A column that the class does not see is
 * put where no row sees it, since a NaN in it must not count. */
static void place_columns(const da_unit *unit, da_segment_set kept_in, int first, int end, da_key_block *block) {
    const da_columns *columns = &unit->columns;
    int panel_keys = unit->cut->kernels->panel_keys, panel = first / panel_keys;
    bool all = sees_all(columns, kept_in, first, end);
    int32_t first_position = relative_position(unit, columns->positions[first]);
    int32_t last_position = relative_position(unit, columns->positions[end - 1]);
    uint32_t first_token = (uint32_t)columns->positions[first];
    bool in_steps = last_position - (int64_t)first_position == end - 1 - first; /* limits bend what is far off */
    for (int k = 0; k < panel_keys; k++) {
        block->positions[first + k] = first_position + (in_steps ? k : 0);
        block->tokens[first + k] = first_token + (uint32_t)k;
    }
    for (int k = first; !all && k < end; k++) {
        block->positions[k] = (columns->held_in[k] & kept_in) != 0 ? block->positions[k] : INT32_MAX;
    }
    for (int k = end; k < first + panel_keys; k++) {
        block->positions[k] = INT32_MAX;
    }
    block->panel_first[panel] = first_position;
    block->panel_last[panel] = all ? last_position : INT32_MAX;
}

static void place_panels(const da_unit *unit, da_key_block *block) {
    const da_columns *columns = &unit->columns;
    da_segment_set kept_in = unit->classes[__builtin_ctzll(columns->seen_by)].kept_in;
    int panel_keys = unit->cut->kernels->panel_keys;
    block->count = columns->count;
    block->values_finite = true;
    for (int first = 0, panel = 0; first < columns->count; first += panel_keys, panel++) {
        int end = first + panel_keys < columns->count ? first + panel_keys : columns->count;
        bool finite;
        const da_packed_panel *packed =
            da_packed_panel_at(unit->packed, unit->packed_sequence, columns->positions[first] / panel_keys, &finite);
        block->panel_keys[panel] = packed->keys;
        block->panel_values[panel] = packed->values;
        block->values_finite = block->values_finite && finite;
        place_columns(unit, kept_in, first, end, block);
    }
}

void da_unit_gather(const da_unit *unit, int key, int value, da_key_block *block) {
    if (unit->packed) {
        place_panels(unit, block);
    } else {
        gather_rows(unit, key, value, block);
    }
}

static void begin_classes(da_unit *unit) {
    for (int c = 0; c < unit->class_count && !unit->has_begun; c++) {
        unit->pass->begin_class(unit->worker, &unit->classes[c]);
    }
    unit->has_begun = true;
}

/* How many columns are to be asked for with each tile of the columns at hand, so that all are. */
static int share_of_next(const da_unit *unit) {
    int tile_rows = unit->cut->kernels->tile_rows, tiles = 1;
    for (int c = 0; c < unit->class_count; c++) {
        tiles += unit->columns.seen_by >> c & 1 ? da_unit_padded_rows(unit, &unit->classes[c]) / tile_rows : 0;
    }
    return unit->next.count / tiles + 1;
}

/* Takes the columns at hand against the tiles of all classes that see them. */
static void attend_columns(da_unit *unit) {
    if (unit->columns.count == 0) {
        return;
    }
    begin_classes(unit);
    unit->pass->fill_block(unit->worker);
    unit->prefetched = 0;
    unit->prefetch_share = share_of_next(unit);
    for (int c = 0; c < unit->class_count; c++) {
        if (unit->columns.seen_by >> c & 1) {
            attend_class(unit, &unit->classes[c]);
        }
    }
    if (unit->pass->leave_block) {
        unit->pass->leave_block(unit->worker);
    }
    unit->columns.count = 0;
}

/* The columns that were visited are at hand, when those before have been attended to. */
static void take_next(da_unit *unit) {
    da_columns visited = unit->next;
    attend_columns(unit);
    unit->next = unit->columns;
    unit->columns = visited;
}

/* The classes of kinds, as far as their tiles have the columns at hand. */
static uint64_t classes_in_reach(const da_unit *unit, uint64_t kinds) {
    uint64_t classes = 0;
    for (int kind = 0; kinds != 0; kind++, kinds >>= 1) {
        classes |= kinds & 1 ? unit->classes_of_kind[kind] : 0;
    }
    return classes & unit->in_reach;
}

/* Adds columns that lie row_step apart in a source's memory; they fit the block. */
static void add_columns(da_unit *unit, const da_key_run *run, int64_t first, int count, const da_source *source,
                        int64_t row, int64_t row_step) {
    da_columns *next = &unit->next;
    int64_t position = run->position + first * run->step;
    int end = next->count + count;
    for (int k = next->count; k < end; k++, position += run->step) {
        next->positions[k] = position;
    }
    for (int k = next->count; k < end; k++, row += row_step) {
        next->rows[k] = row;
    }
    for (int k = next->count; k < end; k++) {
        next->sources[k] = source;
    }
    for (int k = next->count; k < end; k++) {
        next->held_in[k] = run->held_in;
    }
    next->count = end;
}

/* Room in the block to be for columns from `position` on that `seen_by` see, of another block if need be. Columns of a block
 * are in ascending order: those of another group may lie before. */
static int room_for(da_unit *unit, int64_t position, uint64_t seen_by) {
    int count = unit->next.count;
    if (count == unit->cut->block_keys || seen_by != unit->next.seen_by ||
        (count > 0 && position < unit->next.positions[count - 1])) {
        take_next(unit);
        unit->next.seen_by = seen_by;
    }
    return unit->cut->block_keys - unit->next.count;
}

/* Columns of a run one by one, where some may be absent, or lie with one source or another. */
static void visit_each(da_unit *unit, const da_key_run *run, uint64_t seen_by) {
    for (int64_t k = 0; k < run->count; k++) {
        int64_t row, position = run->position + k * run->step;
        if (unit->columns_may_be_absent && unit->pass->column_is_absent &&
            unit->pass->column_is_absent(unit->worker, position)) {
            continue;
        }
        const da_source *source = da_scope_find(unit->scope, unit->batch, unit->column_head, position, &row);
        if (source) {
            (void)room_for(unit, position, seen_by);
            add_columns(unit, run, k, 1, source, row, 0);
        }
    }
}

static void visit_run(const da_key_run *run, void *user) {
    da_unit *unit = user;
    if (run->seen_by != unit->seen_by_kinds) {
        unit->seen_by_kinds = run->seen_by;
        unit->next_seen_by = classes_in_reach(unit, run->seen_by);
    }
    uint64_t seen_by = unit->next_seen_by;
    if (seen_by == 0) {
        return;
    }
    int64_t shift;
    if ((unit->columns_may_be_absent && unit->pass->column_is_absent) || !da_scope_finds_all(unit->scope, &shift)) {
        visit_each(unit, run, seen_by);
        return;
    }
    for (int64_t k = 0; k < run->count;) {
        int64_t position = run->position + k * run->step;
        int count = (int)da_smaller(room_for(unit, position, seen_by), run->count - k);
        add_columns(unit, run, k, count, unit->scope->sources, position + shift, run->step);
        k += count;
    }
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

/* Visits columns for the classes of `in_reach`. */
static void visit_columns(da_unit *unit, uint64_t in_reach, const da_interval *columns, int intervals) {
    unit->in_reach = in_reach;
    unit->seen_by_kinds = 0;
    unit->next_seen_by = 0;
    unit->span.columns = columns;
    unit->span.column_intervals = intervals;
    da_span_keys(&unit->span, unit->kinds, unit->kind_count, visit_run, unit);
}

/* Visits columns a group at a time, each for the classes in the blocks of rows whose tiles have it. */
static void visit_tiles(da_unit *unit) {
    const da_tiles *tiles = unit->tiles;
    int64_t first_block = unit->span.first / tiles->block_size;
    int block_count = (int)((unit->span.end - 1) / tiles->block_size - first_block + 1);
    uint64_t classes_of_block[DA_GROUP_ROWS] = {0}, rows;
    da_tile_groups groups;
    for (int c = 0; c < unit->class_count; c++) {
        classes_of_block[unit->classes[c].block - first_block] |= (uint64_t)1 << c;
    }
    da_tile_groups_begin(&groups, tiles, unit->first_tile_row + first_block, block_count, &unit->span);
    for (int intervals; (intervals = da_tile_groups_next(&groups, &rows)) > 0;) {
        uint64_t in_reach = 0;
        for (int r = 0; r < block_count; r++) {
            in_reach |= rows >> r & 1 ? classes_of_block[r] : 0;
        }
        visit_columns(unit, in_reach, groups.intervals, intervals);
    }
}

/* Adds the columns first..end-1 to the block to be, in which they fit, as the segments hold them: all keep every token. */
static void add_packed(da_unit *unit, int64_t first, int64_t end) {
    const da_span *span = &unit->span;
    int64_t shift = unit->scope->sources->part->pieces->row - unit->scope->sources->part->pieces->first;
    while (first < end) {
        da_key_run run = {.position = first, .step = 1};
        int64_t until = end;
        for (int s = 0; s < span->segment_count; s++) {
            if (first < span->segments[s].first) {
                until = da_smaller(until, span->segments[s].first);
            } else if (first < span->segments[s].end) {
                until = da_smaller(until, span->segments[s].end);
                run.held_in |= (da_segment_set)1 << s;
            }
        }
        add_columns(unit, &run, 0, (int)(until - first), unit->scope->sources, first + shift, 1);
        first = until;
    }
}

/* Absent columns are as if no segment held them. */
static void hide_absent(da_unit *unit, int first) {
    da_columns *next = &unit->next;
    for (int k = first; k < next->count; k++) {
        if (unit->pass->column_is_absent(unit->worker, next->positions[k])) {
            next->held_in[k] = 0;
        }
    }
}

/* Visits packed columns: for each class those of its block's tiles. */
static void visit_packed(da_unit *unit) {
    const da_tiles *tiles = unit->tiles;
    int panel_keys = unit->cut->kernels->panel_keys;
    bool some_absent = unit->columns_may_be_absent && unit->pass->column_is_absent;
    for (int c = 0; c < unit->class_count; c++) {
        const int64_t *starts = &tiles->row_starts[unit->first_tile_row + unit->classes[c].block];
        for (int64_t k = starts[0]; k < starts[1]; k++) {
            int64_t first = tiles->columns[k] * tiles->block_size;
            int64_t end = da_smaller(first + tiles->block_size, tiles->n);
            for (; first < end; first += panel_keys) {
                (void)room_for(unit, first, (uint64_t)1 << c);
                int before = unit->next.count;
                add_packed(unit, first, da_smaller(first + panel_keys, end));
                if (some_absent) {
                    hide_absent(unit, before);
                }
            }
        }
    }
}

/* Computes the rows from `first` on, as far as a span and its classes have room; returns where it stopped. */
static int64_t run_span(da_unit *unit, int64_t first, int64_t end) {
    if (unit->tiles) {
        int64_t block = unit->tiles->block_size, most = (first / block + DA_GROUP_ROWS) * block;
        end = end < most ? end : most;
    }
    da_span_begin(&unit->span, unit->patterns, first, end);
    if (unit->pass->rows_are_keys) {
        da_span_reverse(&unit->span);
    }
    find_classes(unit);
    find_kinds(unit);
    place_rows(unit);
    unit->columns.count = unit->next.count = 0;
    unit->next_source = NULL;
    unit->has_begun = false;
    if (unit->packed) {
        visit_packed(unit);
    } else if (unit->tiles) {
        visit_tiles(unit);
    } else {
        const da_interval all = {unit->scope->columns_first, unit->scope->columns_end};
        visit_columns(unit, UINT64_MAX, &all, 1);
    }
    take_next(unit);
    attend_columns(unit);
    if (da_scope_begins(unit->scope) || da_scope_ends(unit->scope)) {
        begin_classes(unit); /* rows that see nothing here, too */
    }
    for (int c = 0; c < unit->class_count && unit->has_begun; c++) {
        unit->pass->finish_class(unit->worker, &unit->classes[c]);
    }
    return unit->span.end;
}

void da_unit_run(da_unit *unit, const da_piece *piece) {
    const da_kernels *kernels = unit->cut->kernels;
    unit->row_shift = piece->row - piece->first;
    if (kernels->begin) {
        kernels->begin();
    }
    for (int64_t first = piece->first; first < piece->end;) {
        first = run_span(unit, first, piece->end);
    }
    if (kernels->end) {
        kernels->end();
    }
}
