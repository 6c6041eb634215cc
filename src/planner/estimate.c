#include "planner/estimate.h"

#include "core/dtype.h"
#include "core/parallel.h"
#include "planner/calibrate.h"

/* Up to this many units are handed to threads one by one; beyond, threads end together closely enough. */
#define MAX_HANDED_OUT 4096
#define UNKNOWN_CACHE (1u << 20)

/* What a unit of one call costs. */
typedef struct pricing {
    da_calibration timing;
    double row_seconds, key_seconds; /* for what comes from beyond the cache, per query and per key */
    double slowdown;                 /* of each thread, by the others at work */
} pricing;

static int busy_threads(const da_context *context) {
    int threads = da_context_threads(context), cores = da_usable_cores();
    return threads < cores ? threads : cores;
}

static void price_memory(pricing *prices, const da_context *context, const da_problem *problem,
                         double bytes_per_second) {
    const da_hardware *hardware = da_context_hardware(context);
    double cache = (double)(hardware->l2_cache ? hardware->l2_cache : UNKNOWN_CACHE);
    double row_bytes = (double)problem->head_dim * (double)da_dtype_size(problem->dtype);
    double all = row_bytes * 2 * (double)problem->kv_heads * (double)problem->n;
    if (all > cache) {
        double seconds = 2 * row_bytes * busy_threads(context) / bytes_per_second;
        prices->key_seconds = seconds; /* key and value */
        prices->row_seconds = seconds; /* query and output */
    }
}

/* Threads beyond the cores take turns. */
static double slowdown_of(const da_context *context, const da_calibration *timing, int threads) {
    int all = busy_threads(context);
    if (threads >= all) {
        return timing->slowdown * threads / all;
    }
    return 1 + (timing->slowdown - 1) * (threads - 1) / (all > 1 ? all - 1 : 1);
}

static double seconds_of_unit(const pricing *prices, const da_work *work) {
    double seconds = 0;
    for (int k = 0; k < DA_WORK_KINDS; k++) {
        seconds += work->amount[k] * prices->timing.seconds[k];
    }
    seconds += work->amount[DA_WORK_ROWS] * prices->row_seconds + work->amount[DA_WORK_KEYS] * prices->key_seconds;
    return seconds * prices->slowdown;
}

/* The time until the last thread is done, units going in order to the thread that is free first. */
static double hand_out(const pricing *prices, const da_work_list *list, int64_t heads) {
    double free_at[DA_MAX_THREADS] = {0}, last = 0;
    for (int64_t index = 0; index < list->sequences * list->units; index++) {
        int next = 0;
        for (int t = 1; t < list->threads; t++) {
            next = free_at[t] < free_at[next] ? t : next;
        }
        int64_t head = index / list->units % heads;
        free_at[next] += seconds_of_unit(prices, da_work_of_unit(list, head, heads, index % list->units));
        last = free_at[next] > last ? free_at[next] : last;
    }
    return last;
}

static double share_evenly(const pricing *prices, const da_work_list *list) {
    double sum = 0, samples = (double)list->heads_seen * (double)list->units_seen;
    for (int k = 0; k < list->heads_seen * list->units_seen; k++) {
        sum += seconds_of_unit(prices, &list->seen[k]);
    }
    double units = (double)list->sequences * (double)list->units;
    return sum / samples * (units + 0.5 * (list->threads - 1)) / list->threads;
}

da_status da_estimate(const da_context *context, const da_implementation *implementation,
                      const da_attention_config *config, const da_problem *problem, double *seconds) {
    da_work_list list;
    pricing prices = {.row_seconds = 0};
    double bytes_per_second;
    *seconds = 0;
    implementation = da_work_model(implementation);
    if (!da_work_count(context, implementation, config, problem, &list)) {
        return DA_OK;
    }
    da_status status =
        da_calibrate(context, implementation, problem->dtype, problem->head_dim, &prices.timing, &bytes_per_second);
    if (status != DA_OK) {
        return status;
    }
    price_memory(&prices, context, problem, bytes_per_second);
    prices.slowdown = slowdown_of(context, &prices.timing, list.threads);
    bool few = list.sequences <= MAX_HANDED_OUT / list.units;
    *seconds = (double)list.memory * prices.timing.seconds[DA_WORK_MEMORY] +
               (few ? hand_out(&prices, &list, problem->heads) : share_evenly(&prices, &list));
    return DA_OK;
}
