#include "planner/traffic.h"

#include <string.h>

#include "attention/ranks/parcel.h"
#include "core/memory.h"
#include "pattern/kept.h"
#include "pattern/pairs.h"

/* ---- heads that are alike ------------------------------------------------------------------------------------------ */

static bool holds(const da_head_patterns *patterns, const da_head_pattern *pattern) {
    for (int p = 0; p < patterns->count; p++) {
        if (memcmp(&patterns->pattern[p], pattern, sizeof *pattern) == 0) {
            return true;
        }
    }
    return false;
}

/* The union of what `group` query heads keep. */
static void unite(const da_traffic *t, int64_t first_head, int64_t group, da_head_patterns *out) {
    da_head_patterns_init(out, t->config, t->problem->n, t->problem->heads, first_head);
    for (int64_t head = first_head + 1; head < first_head + group; head++) {
        da_head_patterns other;
        da_head_patterns_init(&other, t->config, t->problem->n, t->problem->heads, head);
        for (int p = 0; p < other.count; p++) {
            if (holds(out, &other.pattern[p])) {
                continue;
            }
            if (out->count == DA_MAX_PATTERNS) {
                out->count = 0;
                return;
            }
            out->pattern[out->count++] = other.pattern[p];
        }
    }
}

/* Returns the class. */
static int add_heads(da_traffic *t, da_travellers which, int64_t first_head, int64_t group) {
    da_head_class *classes = t->classes[which];
    int count = t->class_count[which];
    da_head_class *added = &classes[count];
    unite(t, first_head, group, &added->patterns);
    size_t bytes = (size_t)added->patterns.count * sizeof *added->patterns.pattern;
    for (int c = 0; c < count && bytes > 0; c++) {
        if (classes[c].patterns.count == added->patterns.count &&
            memcmp(classes[c].patterns.pattern, added->patterns.pattern, bytes) == 0) {
            classes[c].heads++;
            return c;
        }
    }
    added->first_head = first_head;
    added->heads = 1;
    return t->class_count[which]++;
}

static void *take(da_traffic *t, size_t count, size_t size) {
    t->bytes += da_allocated_bytes(count * size);
    return da_allocate(t->allocator, count, size);
}

da_status da_traffic_create(const da_allocator *allocator, const da_attention_config *config, const da_problem *problem,
                            int64_t longest, da_traffic *out) {
    size_t heads = (size_t)problem->heads, kv_heads = (size_t)problem->kv_heads;
    *out = (da_traffic){.allocator = allocator, .config = config, .problem = problem};
    out->classes[DA_TRAVEL_KEYS] = take(out, kv_heads, sizeof(da_head_class));
    out->classes[DA_TRAVEL_QUERIES] = take(out, heads, sizeof(da_head_class));
    out->class_of_head = take(out, heads, sizeof *out->class_of_head);
    out->whole = take(out, heads, sizeof *out->whole);
    if (!out->classes[DA_TRAVEL_KEYS] || !out->classes[DA_TRAVEL_QUERIES] || !out->class_of_head || !out->whole) {
        da_traffic_free(out);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    int64_t group = problem->heads / problem->kv_heads;
    bool marks = false;
    for (int64_t head = 0; head < problem->heads; head++) {
        out->class_of_head[head] = add_heads(out, DA_TRAVEL_QUERIES, head, 1);
        out->whole[head] = -1;
    }
    for (int64_t head = 0; head < problem->heads; head += group) {
        add_heads(out, DA_TRAVEL_KEYS, head, group);
    }
    for (int c = 0; c < out->class_count[DA_TRAVEL_KEYS]; c++) {
        marks |= out->classes[DA_TRAVEL_KEYS][c].patterns.count == 0;
    }
    out->bits = marks ? take(out, (size_t)longest / 64 + 1, sizeof *out->bits) : NULL;
    if (marks && !out->bits) {
        da_traffic_free(out);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    return DA_OK;
}

void da_traffic_free(da_traffic *traffic) {
    da_release(traffic->allocator, traffic->classes[0]);
    da_release(traffic->allocator, traffic->classes[1]);
    da_release(traffic->allocator, traffic->class_of_head);
    da_release(traffic->allocator, traffic->whole);
    da_release(traffic->allocator, traffic->bits);
}

/* ---- counts -------------------------------------------------------------------------------------------------------- */

static int64_t mark_heads(const da_traffic *t, int64_t first_head, const da_part *rows, const da_part *columns) {
    int64_t group = t->problem->heads / t->problem->kv_heads, marked = 0;
    memset(t->bits, 0, ((size_t)columns->length / 64 + 1) * sizeof *t->bits);
    for (int64_t head = first_head; head < first_head + group; head++) {
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, t->config, t->problem->n, t->problem->heads, head);
        marked += da_kept_mark(&patterns, rows, columns, false, t->bits);
    }
    return marked;
}

int64_t da_traffic_rows(const da_traffic *t, da_travellers travellers, const da_part *rows, const da_part *columns,
                        double *list_bytes) {
    int64_t count = 0, heads = travellers == DA_TRAVEL_KEYS ? t->problem->kv_heads : t->problem->heads;
    double lists = (double)da_allocated_bytes(da_parcel_plan_bytes(heads));
    for (int c = 0; c < t->class_count[travellers]; c++) {
        const da_head_class *class = &t->classes[travellers][c];
        int64_t kept = class->patterns.count > 0
                           ? da_kept_count(&class->patterns, rows, columns, travellers == DA_TRAVEL_QUERIES)
                           : mark_heads(t, class->first_head, rows, columns);
        lists += (double)class->heads * (double)da_allocated_bytes(da_kept_bytes(columns->length, kept));
        count += class->heads * kept;
    }
    if (list_bytes) {
        *list_bytes = count > 0 ? lists : 0;
    }
    return count * t->problem->batch;
}

double da_traffic_pairs(const da_traffic *t, const da_part *queries, const da_part *keys) {
    double pairs = 0;
    for (int c = 0; c < t->class_count[DA_TRAVEL_QUERIES]; c++) {
        const da_head_class *class = &t->classes[DA_TRAVEL_QUERIES][c];
        pairs += (double)class->heads * da_pairs_count(&class->patterns, queries, keys).distinct;
    }
    return pairs * (double)t->problem->batch;
}

double da_traffic_pairs_of_heads(da_traffic *t, int64_t first, int64_t end) {
    da_piece piece;
    const da_part all = da_part_whole(t->problem->n, &piece);
    double pairs = 0;
    for (int64_t head = first; head < end; head++) {
        int c = t->class_of_head[head];
        if (t->whole[c] < 0) {
            t->whole[c] = da_pairs_count(&t->classes[DA_TRAVEL_QUERIES][c].patterns, &all, &all).distinct;
        }
        pairs += t->whole[c];
    }
    return pairs * (double)t->problem->batch;
}

da_status da_traffic_distinct_share(const da_traffic *t, double *share) {
    da_cost cost;
    da_cost_init(&cost);
    *share = 1;
    if (t->config->mixing == DA_MIXING_HEAD_GROUPS || t->config->segment_count <= DA_MAX_TOLD_APART) {
        return DA_OK;
    }
    da_attention_config counting = *t->config;
    counting.overlap = DA_OVERLAP_COUNT;
    da_status status = da_pattern_cost(&counting, t->problem, &cost);
    *share = cost.counted_pairs > 0 ? cost.distinct_pairs / cost.counted_pairs : 1;
    return status;
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

double da_traffic_message_bytes(const da_traffic *t, da_travellers travellers, int64_t rows) {
    return rows > 0 ? (double)da_parcel_message_bytes(rows, t->problem->head_dim, t->problem->dtype,
                                                      travellers == DA_TRAVEL_QUERIES)
                    : 0;
}

void da_traffic_add_message(const da_traffic *t, da_travellers travellers, int64_t rows_in, int64_t rows_out,
                            da_exchange *exchange) {
    exchange->messages_in += rows_in > 0;
    exchange->messages_out += rows_out > 0;
    exchange->rows_in += 2 * rows_in;
    exchange->rows_out += 2 * rows_out;
    exchange->bytes_in += da_traffic_message_bytes(t, travellers, rows_in);
    exchange->bytes_out += da_traffic_message_bytes(t, travellers, rows_out);
}

da_exchange da_traffic_exchange(const da_traffic *t, da_travellers travellers, const da_layout *layout, int rank) {
    const da_part *own = da_layout_part(layout, rank);
    da_exchange exchange = {0};
    for (int other = 0; other < layout->ranks; other++) {
        const da_part *theirs = da_layout_part(layout, other);
        if (other != rank) {
            da_traffic_add_message(t, travellers, da_traffic_rows(t, travellers, own, theirs, NULL),
                                   da_traffic_rows(t, travellers, theirs, own, NULL), &exchange);
        }
    }
    return exchange;
}
