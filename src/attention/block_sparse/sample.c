#include "attention/block_sparse/sample.h"

#include <math.h>
#include <string.h>

#include "attention/workspace.h"
#include "core/numbers.h"
#include "core/parallel.h"

#define PURPOSES 3
/* What few queries lose of their attention is mostly little, and now and then much: a target that is set by a few is missed.
 * With 16 to calibrate by, heads of a language model that were to keep 0.99 kept 0.93 to 0.98 (docs/block-sparse.md). */
#define CORRECTING 16
#define MIN_SAMPLED 32
#define MAX_SAMPLED 128
#define TOKENS_PER_SAMPLED 128
#define SAMPLE_DRAW 0x706d6173u /* tells these draws from others by the same seed */
#define ATTEMPTS 64             /* to draw a token that some pattern keeps */

int da_sample_size(da_sample_purpose purpose, int64_t n) {
    int64_t most = purpose == DA_SAMPLE_CORRECT
                       ? CORRECTING
                       : da_smaller(da_larger(n / TOKENS_PER_SAMPLED, MIN_SAMPLED), MAX_SAMPLED);
    return (int)da_smaller(most, n);
}

static int padded_dim(const da_sparse_head *head) {
    int lanes = head->kernels->vector_lanes;
    return ((int)head->query->shape[3] + lanes - 1) / lanes * lanes;
}

/* ---- layout ------------------------------------------------------------------------------------------------------ */

void da_sample_lay_out(da_sample *sample, const da_sparse_head *head, unsigned purposes, da_arena *arena) {
    size_t tile = (size_t)head->kernels->tile_rows, capacity = 0;
    for (int purpose = 0; purpose < PURPOSES; purpose++) {
        capacity += purposes >> purpose & 1 ? (size_t)da_sample_size((da_sample_purpose)purpose, head->n) : 0;
    }
    sample->capacity = (int)capacity;
    sample->queries = da_arena_take(arena, capacity, sizeof *sample->queries);
    da_sampled_range *ranges = da_arena_take(arena, capacity * (size_t)head->patterns.count, sizeof *ranges);
    for (size_t k = 0; ranges && k < capacity; k++) {
        sample->queries[k].ranges = ranges + k * (size_t)head->patterns.count;
    }
    sample->mass = da_arena_take(arena, capacity * (size_t)head->blocks, sizeof(float));
    sample->sums = da_arena_take(arena, capacity * (size_t)head->blocks, sizeof(float));
    sample->packed = da_arena_take(arena, (capacity + tile) * (size_t)padded_dim(head), sizeof(float));
}

/* What a thread has to score a block's keys with. */
typedef struct scorer {
    da_key_block keys;
    float *scores;                 /* [tile_rows][DA_BLOCK_KEYS] */
    float *no_bias, *bias;         /* [DA_BLOCK_KEYS] */
    int64_t *tokens;               /* [DA_BLOCK_KEYS]: positions */
    uint8_t *keeps, *multiplicity; /* [patterns][DA_BLOCK_KEYS]; [DA_BLOCK_KEYS] */
} scorer;

static size_t lay_out_scorer(scorer *s, const da_sparse_head *head, char *memory) {
    da_arena arena = {memory, 0};
    size_t padded = (size_t)padded_dim(head);
    s->keys = (da_key_block){.head_dim = (int)head->query->shape[3], .padded_dim = padded_dim(head)};
    s->keys.staged = da_arena_take(&arena, (size_t)head->kernels->panel_keys * padded, sizeof(float));
    s->keys.panels = da_arena_take(&arena, DA_BLOCK_KEYS * padded, sizeof(float));
    s->keys.values = da_arena_take(&arena, DA_BLOCK_KEYS * padded, sizeof(float));
    s->keys.positions = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof *s->keys.positions);
    s->keys.tokens = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof *s->keys.tokens);
    s->scores = da_arena_take(&arena, (size_t)head->kernels->tile_rows * DA_BLOCK_KEYS, sizeof(float));
    s->no_bias = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof(float));
    s->bias = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof(float));
    s->tokens = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof *s->tokens);
    s->keeps = da_arena_take(&arena, DA_MAX_PATTERNS * DA_BLOCK_KEYS, 1);
    s->multiplicity = da_arena_take(&arena, DA_BLOCK_KEYS, 1);
    return arena.used;
}

size_t da_sample_scratch(const da_sparse_head *head) {
    scorer s;
    return lay_out_scorer(&s, head, NULL);
}

/* ---- drawing ----------------------------------------------------------------------------------------------------- */

/* Fills in what a query sees; false: no pattern keeps it. */
static bool describe_query(const da_sparse_head *head, int64_t i, da_sampled_query *query) {
    const da_head_patterns *patterns = &head->patterns;
    query->position = i;
    query->range_count = 0;
    query->zero_keys = 0;
    query->has_keys = true;
    for (int p = 0; p < patterns->count; p++) {
        const da_head_pattern *pattern = &patterns->pattern[p];
        if (!da_pattern_keeps(pattern, i)) {
            continue;
        }
        int64_t first = da_segment_first(pattern, i), end = da_segment_end(pattern, head->n, i);
        if (i - first > patterns->window) {
            first = i - patterns->window;
        }
        query->ranges[query->range_count++] = (da_sampled_range){first, patterns->causal ? i + 1 : end, p};
        query->zero_keys += (double)da_pattern_zero_keys(patterns, pattern, i);
    }
    return query->range_count > 0;
}

static bool draw_query(const da_sparse_head *head, int purpose, int index, int size, da_sampled_query *query) {
    int64_t first = head->n / size * index + da_smaller(head->n % size, index);
    int64_t length = head->n / size + (index < head->n % size ? 1 : 0);
    uint32_t draw_key = da_philox_4x32(head->config->sparse_seed, (uint32_t)head->head, SAMPLE_DRAW);
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        uint32_t number = da_philox_2x32(draw_key, (uint32_t)(index * PURPOSES + purpose), (uint32_t)attempt);
        int64_t i = first + (int64_t)((double)number * 0x1p-32 * (double)length);
        if (describe_query(head, i, query)) {
            return true;
        }
    }
    for (int64_t i = first; i < first + length; i++) {
        if (describe_query(head, i, query)) {
            return true;
        }
    }
    return false;
}

static void draw(da_sample *sample, const da_sparse_head *head, unsigned purposes) {
    sample->count = 0;
    for (int purpose = 0; purpose < PURPOSES; purpose++) {
        int size = da_sample_size((da_sample_purpose)purpose, head->n);
        sample->first_of[purpose] = sample->count;
        for (int k = 0; (purposes >> purpose & 1) && k < size; k++) {
            sample->count += draw_query(head, purpose, k, size, &sample->queries[sample->count]);
        }
    }
    sample->first_of[PURPOSES] = sample->count;
}

static void pack(const da_sample *sample, const da_sparse_head *head) {
    int tile = head->kernels->tile_rows, padded = padded_dim(head), head_dim = (int)head->query->shape[3];
    da_kernel_rows rows;
    da_kernel_rows_of(&rows, head->query, head->batch, head->head);
    memset(sample->packed, 0, (size_t)(sample->count + tile) * (size_t)padded * sizeof(float));
    for (int k = 0; k < sample->count; k++) {
        head->kernels->pack_query(da_kernel_row(&rows, sample->queries[k].position), rows.stride, rows.dtype, head_dim,
                                  head->factor, k % tile, sample->packed + (int64_t)(k / tile) * tile * padded);
    }
}

/* ---- masses ------------------------------------------------------------------------------------------------------ */

typedef struct sampling {
    const da_sample *sample;
    const da_sparse_head *head;
    char *scratch;
    size_t scratch_size;
} sampling;

static bool sees_between(const da_sampled_query *query, int64_t first, int64_t end) {
    for (int r = 0; r < query->range_count; r++) {
        if (query->ranges[r].first < end && query->ranges[r].end > first) {
            return true;
        }
    }
    return false;
}

/* Adds keys i to i + count - 1 to those gathered. */
static void append_keys(scorer *s, const da_sparse_head *head, da_kernel_rows *rows, int64_t i, int count) {
    for (int k = 0; k < count; k++) {
        s->tokens[s->keys.count + k] = i + k;
    }
    const void *row = da_kernel_run(rows, i, 1, count);
    head->kernels->append_keys(
        &s->keys,
        &(da_key_source){
            .key = row, .key_step = rows->step, .key_stride = rows->stride, .dtype = rows->dtype, .count = count});
}

/* Notes which of the keys first..end-1, all gathered, a pattern keeps. */
static void mark_kept(const da_head_pattern *pattern, int64_t n, int64_t first, int64_t end, uint8_t *keeps) {
    memset(keeps, pattern->rate == 1, (size_t)(end - first));
    for (int64_t at = first; pattern->rate > 1 && at < end;) {
        int64_t i = da_sparse_next_kept(pattern, n, at), stop = i < end ? da_segment_end(pattern, n, i) : end;
        stop = da_smaller(stop, end);
        for (; i < stop; i += pattern->rate) {
            keeps[i - first] = 1;
        }
        at = stop;
    }
}

/* Gathers keys where some pattern keeps all and none is padded: those of [first, end), at most DA_BLOCK_KEYS. */
static void gather_run(scorer *s, const da_sparse_head *head, da_kernel_rows *rows, int64_t first, int64_t end) {
    const da_head_patterns *patterns = &head->patterns;
    for (int p = 0; p < patterns->count; p++) {
        mark_kept(&patterns->pattern[p], head->n, first, end, s->keeps + p * DA_BLOCK_KEYS);
    }
    int at_a_time = rows->rounds ? 1 : DA_PREFETCH_ROWS / 2;
    for (int64_t i = first; i < end; i += at_a_time) {
        append_keys(s, head, rows, i, (int)da_smaller(at_a_time, end - i));
    }
}

/* Adds key i to those gathered if some pattern keeps it and it is not padded. */
static void gather_key(scorer *s, const da_sparse_head *head, da_kernel_rows *rows, int64_t i) {
    bool kept = false;
    for (int p = 0; p < head->patterns.count; p++) {
        bool keeps = da_pattern_keeps(&head->patterns.pattern[p], i);
        s->keeps[p * DA_BLOCK_KEYS + s->keys.count] = keeps;
        kept |= keeps;
    }
    if (kept && !da_key_is_padded(head->options, head->batch, i)) {
        append_keys(s, head, rows, i, 1);
    }
}

/* Gathers the keys of [*at, end) that some pattern keeps, until there are DA_BLOCK_KEYS, and moves *at on. */
static void gather_keys(scorer *s, const da_sparse_head *head, int64_t *at, int64_t end) {
    bool all_kept = false;
    da_kernel_rows rows;
    da_kernel_rows_of(&rows, head->key, head->batch, head->key_head);
    for (int p = 0; p < head->patterns.count; p++) {
        all_kept |= head->patterns.pattern[p].rate == 1;
    }
    s->keys.count = 0;
    if (all_kept && !da_keys_may_be_padded(head->options)) {
        int64_t first = *at;
        *at = da_smaller(end, first + DA_BLOCK_KEYS);
        gather_run(s, head, &rows, first, *at);
    }
    for (; *at < end && s->keys.count < DA_BLOCK_KEYS; ++*at) {
        gather_key(s, head, &rows, *at);
    }
    head->kernels->close_block(&s->keys);
}

/* log2 of how often a query sees each of the keys gathered, -infinity if never; NULL: each once. */
static const float *bias_of(const sampling *job, scorer *s, const da_sampled_query *query) {
    int count = s->keys.count, plain = 0;
    const da_sampled_range *only = query->ranges;
    if (query->range_count == 1 && job->head->patterns.pattern[only->pattern].rate == 1 &&
        s->tokens[0] >= only->first && s->tokens[count - 1] < only->end) {
        return NULL;
    }
    memset(s->multiplicity, 0, (size_t)count);
    for (int r = 0; r < query->range_count; r++) {
        const da_sampled_range *range = &query->ranges[r];
        const uint8_t *keeps = s->keeps + range->pattern * DA_BLOCK_KEYS;
        if (s->tokens[0] >= range->first && s->tokens[count - 1] < range->end) {
            for (int t = 0; t < count; t++) {
                s->multiplicity[t] = (uint8_t)(s->multiplicity[t] + keeps[t]);
            }
        } else {
            for (int t = 0; t < count; t++) {
                bool within = s->tokens[t] >= range->first && s->tokens[t] < range->end;
                s->multiplicity[t] = (uint8_t)(s->multiplicity[t] + (within ? keeps[t] : 0));
            }
        }
    }
    for (int t = 0; t < count; t++) {
        plain += s->multiplicity[t] == 1;
    }
    if (plain == count) {
        return NULL;
    }
    for (int t = 0; t < count; t++) {
        int times = s->multiplicity[t];
        s->bias[t] = job->sample->log_2[job->head->patterns.once && times > 1 ? 1 : times];
    }
    return s->bias;
}

/* Adds the keys gathered to what a query has of a block: its largest score in `mass`, and the sum beside it. */
static void add_keys(const sampling *job, scorer *s, int index, int row, int64_t block) {
    float maximum, sum, *largest = &job->sample->mass[index * job->head->blocks + block],
                        *total = &job->sample->sums[index * job->head->blocks + block];
    job->head->kernels->reduce_groups(s->scores + row * DA_BLOCK_KEYS, bias_of(job, s, &job->sample->queries[index]),
                                      s->keys.count, 1, &maximum, &sum);
    if (sum == 0) {
        return;
    }
    if (*total == 0) {
        *largest = maximum;
        *total = sum;
        return;
    }
    float reached = maximum > *largest ? maximum : *largest;
    *total = *total * exp2f(*largest - reached) + sum * exp2f(maximum - reached);
    *largest = reached;
}

static void score_keys(const sampling *job, scorer *s, int64_t block) {
    const da_sparse_head *head = job->head;
    int tile_rows = head->kernels->tile_rows;
    int64_t first = s->tokens[0], end = s->tokens[s->keys.count - 1] + 1;
    for (int k = 0; k < job->sample->count; k += tile_rows) {
        int rows = (int)da_smaller(tile_rows, job->sample->count - k);
        bool scored = false;
        for (int r = 0; r < rows; r++) {
            if (!sees_between(&job->sample->queries[k + r], first, end)) {
                continue;
            }
            if (!scored) {
                da_query_tile tile = {.queries = job->sample->packed + (int64_t)k * padded_dim(head),
                                      .scores = s->scores,
                                      .bias = s->no_bias,
                                      .rows = rows};
                head->kernels->score(&s->keys, &tile);
                scored = true;
            }
            add_keys(job, s, k + r, r, block);
        }
    }
}

/* The masses of one block of keys, not yet divided. */
static void sample_block(const sampling *job, scorer *s, int64_t block) {
    const da_sparse_head *head = job->head;
    int64_t at = block * head->block_size, end = da_smaller(at + head->block_size, head->n);
    for (int k = 0; k < job->sample->count; k++) {
        job->sample->mass[k * head->blocks + block] = -INFINITY;
        job->sample->sums[k * head->blocks + block] = 0;
    }
    while (at < end) {
        gather_keys(s, head, &at, end);
        if (s->keys.count > 0) {
            score_keys(job, s, block);
        }
    }
}

void da_sample_blocks(const da_sample *sample, const da_sparse_head *head, int64_t first, int64_t end, char *scratch) {
    const sampling job = {.sample = sample, .head = head};
    scorer s;
    lay_out_scorer(&s, head, scratch);
    for (int64_t block = first; block < end; block++) {
        sample_block(&job, &s, block);
    }
}

static void sample_part(int64_t block, int thread, void *user) {
    const sampling *job = user;
    da_sample_blocks(job->sample, job->head, block, block + 1, job->scratch + (size_t)thread * job->scratch_size);
}

/* Divides a query's masses by their sum. A query without keys, or with scores that are not finite, measures nothing. */
static void divide(int64_t index, int thread, void *user) {
    const sampling *job = user;
    int64_t blocks = job->head->blocks;
    da_sampled_query *query = &job->sample->queries[index];
    float *mass = job->sample->mass + index * blocks, *sums = job->sample->sums + index * blocks;
    float largest = query->zero_keys > 0 ? 0 : -INFINITY;
    (void)thread;
    for (int64_t block = 0; block < blocks; block++) {
        largest = mass[block] > largest ? mass[block] : largest;
    }
    double total = NAN;
    if (isfinite(largest)) {
        job->head->kernels->weigh(mass, sums, largest, blocks, mass);
        total = query->zero_keys * exp2(-(double)largest);
    }
    for (int64_t block = 0; block < blocks; block++) {
        total += (double)mass[block];
    }
    if (!isfinite(total)) {
        query->has_keys = false;
        memset(mass, 0, (size_t)blocks * sizeof *mass);
        return;
    }
    for (int64_t block = 0; block < blocks; block++) {
        mass[block] = (float)((double)mass[block] / total);
    }
    query->zero_keys = query->zero_keys * exp2(-(double)largest) / total;
}

void da_sample_begin(da_sample *sample, const da_sparse_head *head, unsigned purposes) {
    for (int times = 0; times <= DA_MAX_PATTERNS; times++) {
        sample->log_2[times] = times > 0 ? (float)log2((double)times) : -INFINITY;
    }
    draw(sample, head, purposes);
    pack(sample, head);
}

void da_sample_end(da_sample *sample, const da_sparse_head *head) {
    sampling job = {.sample = sample, .head = head};
    da_parallel_for(head->threads, sample->count, divide, &job);
}

void da_sample_take(da_sample *sample, const da_sparse_head *head, unsigned purposes, char *scratch) {
    sampling job = {.sample = sample, .head = head, .scratch = scratch, .scratch_size = da_sample_scratch(head)};
    memset(scratch, 0, (size_t)head->threads * job.scratch_size);
    da_sample_begin(sample, head, purposes);
    da_parallel_for(head->threads, head->blocks, sample_part, &job);
    da_sample_end(sample, head);
}

double da_sample_kept(const da_sample *sample, const da_sparse_head *head, int index, const int32_t *columns,
                      int64_t column_count) {
    const float *mass = sample->mass + index * head->blocks;
    double kept = sample->queries[index].zero_keys;
    for (int64_t k = 0; k < column_count; k++) {
        kept += (double)mass[columns[k]];
    }
    return kept;
}
