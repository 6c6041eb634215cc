#include "planner/work.h"

#include <math.h>

#include "attention/ring/ring.h"
#include "attention/standard/standard.h"
#include "attention/workspace.h"
#include "pattern/schedule.h"

#define MAX_HEADS_SEEN 4
/* Visits to keys that one count may take. */
#define MAX_VISITS 2.0e6
#define UNKNOWN_CACHE ((uint64_t)1 << 20)

/* What all units of a call share. */
typedef struct counting {
    const da_attention_config *config;
    const da_problem *problem;
    const da_improved_cut *cut; /* NULL: standard */
    int64_t unit;
    bool far;
    double pairs_per_row; /* where units are too large to be gone through; else 0 */
} counting;

/* About as many keys are visited for one unit of a head, or fewer. */
static double visits_of_unit(const da_head_patterns *patterns, int64_t unit) {
    double segments = 0, visits = 0;
    for (int p = 0; p < patterns->count; p++) {
        segments += (double)unit / (double)patterns->pattern[p].segment + 1;
    }
    double spans = ceil(segments / DA_MAX_SPAN_SEGMENTS);
    spans = spans < DA_WORK_MAX_SPANS ? spans : DA_WORK_MAX_SPANS;
    for (int p = 0; p < patterns->count; p++) {
        const da_head_pattern *pattern = &patterns->pattern[p];
        visits += ((double)unit + 2 * spans * (double)pattern->segment) / (double)pattern->rate;
    }
    return visits;
}

/* The largest of all heads. */
static double largest_visits(const counting *job) {
    int64_t heads = job->problem->heads < DA_MAX_PATTERNS ? job->problem->heads : DA_MAX_PATTERNS;
    double largest = 0;
    for (int64_t h = 0; h < heads; h++) {
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, job->config, job->problem->n, job->problem->heads,
                              h * job->problem->heads / heads);
        double visits = visits_of_unit(&patterns, job->unit);
        largest = visits > largest ? visits : largest;
    }
    return largest;
}

/* Work from the number of pairs alone, as if all tiles and panels were full. */
static void add_from_pairs(const counting *job, int64_t rows, da_work *work) {
    double pairs = job->pairs_per_row * (double)rows;
    double *amount = work->amount;
    amount[DA_WORK_ROWS] += (double)rows;
    amount[DA_WORK_SPANS] += 1;
    if (!job->cut) {
        amount[DA_WORK_TILE_PANELS] += pairs;
        amount[DA_WORK_KEYS] += pairs / DA_STANDARD_TILE_ROWS;
        return;
    }
    double per_tile = pairs / job->cut->tile_rows;
    amount[DA_WORK_KEYS] += job->pairs_per_row;
    amount[DA_WORK_TILE_BLOCKS] += per_tile / job->cut->block_keys;
    amount[DA_WORK_TILE_PANELS] += per_tile / job->cut->panel_keys;
}

static void add_unit(const counting *job, const da_head_patterns *patterns, int64_t index, da_work *work) {
    int64_t first = index * job->unit, n = job->problem->n;
    int64_t end = n - first < job->unit ? n : first + job->unit;
    if (job->pairs_per_row > 0) {
        add_from_pairs(job, end - first, work);
    } else if (job->cut) {
        da_work_add_improved(patterns, job->cut, first, end, work);
    } else {
        da_work_add_standard(patterns, first, end, work);
    }
    work->amount[DA_WORK_FAR_TILES] = job->far ? work->amount[DA_WORK_TILE_BLOCKS] : 0;
}

/* Sample k of a list: one unit of each of as many equal parts, at a place that no period of a pattern shares. */
static int64_t sampled_unit(const da_work_list *list, int k) {
    const double golden_ratio = 0.61803398874989484820;
    if (list->units == list->units_seen) {
        return k;
    }
    double place = (double)(k + 1) * golden_ratio;
    double part = (double)list->units / (double)list->units_seen;
    int64_t unit = (int64_t)(((double)k + place - floor(place)) * part);
    return unit < list->units ? unit : list->units - 1;
}

static void count_samples(const counting *job, da_work_list *list) {
    for (int h = 0; h < list->heads_seen; h++) {
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, job->config, job->problem->n, job->problem->heads,
                              h * job->problem->heads / list->heads_seen);
        for (int k = 0; k < list->units_seen; k++) {
            da_work *work = &list->seen[h * list->units_seen + k];
            *work = (da_work){{0}};
            add_unit(job, &patterns, sampled_unit(list, k), work);
        }
    }
}

static bool choose_samples(counting *job, da_work_list *list) {
    double visits = largest_visits(job);
    int most = DA_WORK_SAMPLES;
    if (visits > MAX_VISITS) {
        da_cost cost = {.size = sizeof cost};
        if (da_pattern_cost(job->config, job->problem, &cost) != DA_OK) {
            return false;
        }
        double rows = (double)job->problem->batch * (double)job->problem->heads * (double)job->problem->n;
        job->pairs_per_row = (job->cut ? cost.distinct_pairs : cost.counted_pairs) / rows;
    } else if (visits * most > MAX_VISITS) {
        most = (int)(MAX_VISITS / visits);
    }
    list->heads_seen = (int)(job->problem->heads < MAX_HEADS_SEEN ? job->problem->heads : MAX_HEADS_SEEN);
    list->heads_seen = list->heads_seen < most ? list->heads_seen : most;
    most /= list->heads_seen;
    list->units_seen = (int)(list->units < most ? list->units : most);
    return true;
}

bool da_work_is_far(const da_context *context, const da_improved_cut *cut) {
    uint64_t cache = da_context_hardware(context)->l2_cache;
    /* Keys and values of the block at hand want a part of it, too. */
    return cut->unit_bytes > (cache > 0 ? cache : UNKNOWN_CACHE) / 4 * 3;
}

const da_implementation *da_work_model(const da_implementation *implementation) {
    return implementation->forward == da_ring_implementation.forward ? &da_improved_implementation : implementation;
}

bool da_work_count(const da_context *context, const da_implementation *implementation,
                   const da_attention_config *config, const da_problem *problem, da_work_list *list) {
    da_improved_cut cut;
    counting job = {.config = config, .problem = problem};
    list->sequences = problem->batch * problem->heads;
    if (implementation->forward == da_improved_implementation.forward) {
        da_improved_describe(context, config, problem, &cut);
        job.cut = &cut;
        job.unit = cut.unit;
        job.far = da_work_is_far(context, &cut);
        list->threads = cut.threads;
    } else if (implementation->forward == da_standard_implementation.forward) {
        job.unit = DA_STANDARD_TILE_ROWS;
        list->threads = da_threads_for(context, &config->tuning, list->sequences * ((problem->n - 1) / job.unit + 1));
    } else {
        return false;
    }
    list->units = (problem->n - 1) / job.unit + 1;
    list->memory = implementation->workspace(context, config, problem, implementation->user);
    if (!choose_samples(&job, list)) {
        return false;
    }
    count_samples(&job, list);
    return true;
}

const da_work *da_work_of_unit(const da_work_list *list, int64_t head, int64_t heads, int64_t unit) {
    int64_t h = head * list->heads_seen / heads, k = unit * list->units_seen / list->units;
    return &list->seen[h * list->units_seen + k];
}
