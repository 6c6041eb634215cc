/* da_plan: the candidates for a problem, estimated or tried. */
#include <math.h>
#include <stdlib.h>

#include "config/validation.h"
#include "factory/builtin.h"
#include "factory/select.h"
#include "planner/estimate.h"
#include "planner/plans.h"
#include "planner/trial.h"
#include "planner/work.h"

/* A candidate must be this much better than one that was tried before it: the library's own choice comes first. */
#define CLEARLY 0.97
/* An implementation that the model takes to be this much slower than the fastest is not tried. */
#define HOPELESS 3.0

/* A planning in progress. */
typedef struct planning {
    const da_context *context;
    da_attention_config config; /* its tuning is that of the candidate at hand */
    da_tuning wish;             /* what the caller's configuration sets */
    da_problem problem;
    da_plan_result *result;
    const da_entry *best_entry;
    da_problem shortened; /* what is tried */
    double scale;         /* of its seconds, to those of the problem */
    da_trial trial;       /* of `shortened`; no memory: nothing is tried */
} planning;

void da_plan_result_init(da_plan_result *result) {
    if (result) {
        *result = (da_plan_result){.size = sizeof *result};
    }
}

/* ---- trying ------------------------------------------------------------------------------------------------------ */

#define TRY_SECONDS 0.3               /* of one run: longer problems are shortened */
#define TRY_BYTES (128.0 * (1 << 20)) /* of their tensors */
#define SHORTEST 4096
enum { MIN_TRIES = 3, MAX_TRIES = 15 };
#define ENOUGH_SECONDS 0.05 /* for the tries of one candidate */

static double tensor_bytes(const da_problem *problem) {
    double rows = (double)problem->n * (double)(problem->heads * (problem->batch + 1) + 2 * problem->kv_heads);
    return rows * (double)problem->head_dim * (double)da_dtype_size(problem->dtype);
}

static int64_t longest_segment(const da_attention_config *config) {
    int64_t longest = 1;
    for (size_t p = 0; p < config->segment_count; p++) {
        longest = config->segment_lengths[p] > longest ? config->segment_lengths[p] : longest;
    }
    return longest;
}

/* Takes one step towards a smaller problem of the same kind; false if none is left. */
static bool shorten(const planning *p, da_problem *problem) {
    int64_t longest = longest_segment(&p->config), enough = longest < SHORTEST ? SHORTEST : longest;
    int threads = da_context_threads(p->context);
    if (problem->batch > 1) {
        problem->batch = (problem->batch + 1) / 2;
    } else if (problem->n / 4 >= enough) {
        problem->n = problem->n / 2 / enough * enough;
    } else if (problem->heads % 2 == 0 && problem->kv_heads % 2 == 0 && problem->heads / 2 >= 2 * threads) {
        problem->heads /= 2;
        problem->kv_heads /= 2;
    } else if (problem->n > SHORTEST) {
        problem->n = (problem->n + 1) / 2;
    } else if (problem->heads > 1) {
        problem->heads = problem->kv_heads = problem->kv_heads > 1 ? (problem->kv_heads + 1) / 2 : 1;
    } else {
        return false;
    }
    return true;
}

/* Shortens the problem until the fastest implementation, by the model, takes no more than TRY_SECONDS. */
static da_status prepare_trial(planning *p, const da_entry *fastest, double seconds) {
    double shortened_seconds = seconds;
    p->shortened = p->problem;
    p->config.tuning = p->wish;
    while ((shortened_seconds > TRY_SECONDS || tensor_bytes(&p->shortened) > TRY_BYTES) && shorten(p, &p->shortened)) {
        da_status status = da_estimate(p->context, &fastest->table, &p->config, &p->shortened, &shortened_seconds);
        if (status != DA_OK) {
            return status;
        }
    }
    p->scale = seconds > 0 && shortened_seconds > 0 ? seconds / shortened_seconds : 1;
    return da_trial_create(p->context, &p->shortened, &p->trial);
}

static int compare_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of some runs after one to warm up. */
static da_status try_candidate(planning *p, const da_entry *entry, double *seconds) {
    double runs[MAX_TRIES];
    const da_trial_size size = {p->shortened.batch, p->shortened.n, p->shortened.n};
    int count = 0;
    p->trial.implementation = &entry->table;
    da_status status = da_trial_run(&p->trial, &p->config, size, &runs[0]);
    double start = da_trial_clock();
    while (status == DA_OK && count < MAX_TRIES && (count < MIN_TRIES || da_trial_clock() - start < ENOUGH_SECONDS)) {
        status = da_trial_run(&p->trial, &p->config, size, &runs[count++]);
    }
    qsort(runs, (size_t)count, sizeof *runs, compare_seconds);
    *seconds = count > 0 ? runs[count / 2] * p->scale : 0;
    return status;
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

static double score_of(const da_plan_candidate *candidate) {
    return candidate->measured_seconds > 0 ? candidate->measured_seconds : candidate->estimated_seconds;
}

static bool already_there(const da_plan_result *result, const char *name, const da_tuning *tuning) {
    for (size_t k = 0; k < result->candidate_count; k++) {
        const da_plan_candidate *other = &result->candidates[k];
        if (other->implementation == name && other->tuning.unit == tuning->unit &&
            other->tuning.block_keys == tuning->block_keys && other->tuning.threads == tuning->threads) {
            return true;
        }
    }
    return result->candidate_count == DA_MAX_PLAN_CANDIDATES;
}

/* Weighs one candidate; it becomes the choice if it is clearly better. */
static da_status consider(planning *p, const da_entry *entry, da_tuning tuning) {
    da_plan_result *result = p->result;
    if (already_there(result, entry->table.name, &tuning)) {
        return DA_OK;
    }
    da_plan_candidate *candidate = &result->candidates[result->candidate_count];
    *candidate = (da_plan_candidate){.implementation = entry->table.name, .tuning = tuning};
    p->config.tuning = tuning;
    da_status status = da_estimate(p->context, &entry->table, &p->config, &p->problem, &candidate->estimated_seconds);
    bool hopeless = p->best_entry && p->best_entry != entry && result->choice.estimated_seconds > 0 &&
                    candidate->estimated_seconds > HOPELESS * result->choice.estimated_seconds;
    if (status == DA_OK && p->trial.memory && !hopeless) {
        status = try_candidate(p, entry, &candidate->measured_seconds);
    }
    if (status != DA_OK) {
        return status;
    }
    result->candidate_count++;
    bool comparable = !p->trial.memory || candidate->measured_seconds > 0;
    if (!p->best_entry || (comparable && score_of(candidate) < CLEARLY * score_of(&result->choice))) {
        result->choice = *candidate;
        p->best_entry = entry;
    }
    return DA_OK;
}

/* Does an implementation compute what another one that is considered does? */
static bool repeats(const da_implementation *table, const da_implementation *first) {
    const da_implementation *model = da_work_model(table);
    return model->forward != table->forward || model->forward == da_work_model(first)->forward;
}

/* Every implementation that fits, with the tuning as the caller's configuration has it; the chosen one's first. */
static da_status consider_implementations(planning *p, const da_demand *demand, const da_entry *first) {
    da_status status = consider(p, first, p->wish);
    for (int k = 0; k < DA_BUILT_IN_COUNT && status == DA_OK; k++) {
        char reason[DA_REASON_SIZE];
        const da_entry *entry;
        status = da_registry_find(da_built_ins[k]->name, &entry);
        if (status == DA_OK && da_plans_implementation(entry->table.name) && !repeats(&entry->table, &first->table) &&
            da_entry_fits(entry, p->context, demand, reason)) {
            status = consider(p, entry, p->wish);
        }
    }
    return status;
}

static da_status consider_units(planning *p) {
    da_status status = DA_OK;
    for (int64_t unit = 128; unit <= DA_MAX_UNIT && status == DA_OK && p->wish.unit == 0; unit *= 2) {
        da_tuning tuning = p->result->choice.tuning;
        tuning.unit = unit;
        if (unit / 2 < p->problem.n) {
            status = consider(p, p->best_entry, tuning);
        }
    }
    return status;
}

static da_status consider_blocks(planning *p) {
    da_status status = DA_OK;
    for (int keys = 64; keys < DA_MAX_BLOCK_KEYS && status == DA_OK && p->wish.block_keys == 0; keys += 64) {
        da_tuning tuning = p->result->choice.tuning;
        tuning.block_keys = keys;
        status = consider(p, p->best_entry, tuning);
    }
    return status;
}

/* Fewer threads pay where the work is so little that starting them costs more. */
static da_status consider_threads(planning *p) {
    const double little = 0.01;
    da_status status = DA_OK;
    for (int threads = 1; threads < da_context_threads(p->context) && status == DA_OK && p->wish.threads == 0 &&
                          score_of(&p->result->choice) < little;
         threads *= 2) {
        da_tuning tuning = p->result->choice.tuning;
        tuning.threads = threads;
        status = consider(p, p->best_entry, tuning);
    }
    return status;
}

static da_status consider_all(planning *p, const da_demand *demand, const da_entry *first) {
    da_status status = consider_implementations(p, demand, first);
    if (status == DA_OK) {
        status = consider_units(p);
    }
    if (status == DA_OK) {
        status = consider_blocks(p);
    }
    return status == DA_OK ? consider_threads(p) : status;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static da_status remember(const planning *p) {
    const da_plan_candidate *choice = &p->result->choice;
    da_plan_subject subject;
    char key[DA_PLAN_KEY_SIZE];
    da_plans *plans = da_context_plans(p->context);
    if (!plans || !da_tuning_is_open(&p->wish)) {
        return DA_OK;
    }
    da_remembered plan = {da_plans_implementation(choice->implementation), choice->tuning,
                          1e-9 * fmax(1, round(choice->measured_seconds * 1e9))};
    da_plan_subject_of(p->context, &p->config, &p->problem, &subject);
    da_plan_key_write(&subject, key);
    return da_plans_remember(plans, key, &plan);
}

static da_status measure(planning *p, const da_demand *demand, const da_entry *first) {
    double seconds;
    p->config.tuning = p->wish;
    da_status status = da_estimate(p->context, &first->table, &p->config, &p->problem, &seconds);
    if (status == DA_OK) {
        status = prepare_trial(p, first, seconds);
    }
    if (status == DA_OK) {
        status = consider_all(p, demand, first);
        da_trial_free(&p->trial);
    }
    return status == DA_OK ? remember(p) : status;
}

/* A plan that is remembered, unless the implementation that it names cannot run here. */
static da_status recall(planning *p, const da_demand *demand, bool *found) {
    da_remembered plan;
    char reason[DA_REASON_SIZE];
    const da_entry *entry;
    *found = da_tuning_is_open(&p->wish) && da_plans_find(p->context, &p->config, &p->problem, &plan);
    if (!*found) {
        return DA_OK;
    }
    da_status status = da_registry_find(plan.implementation, &entry);
    *found = status == DA_OK && da_entry_fits(entry, p->context, demand, reason);
    if (!*found) {
        return status;
    }
    p->result->remembered = true;
    p->result->choice = (da_plan_candidate){entry->table.name, plan.tuning, 0, plan.seconds};
    p->config.tuning = plan.tuning;
    return da_estimate(p->context, &entry->table, &p->config, &p->problem, &p->result->choice.estimated_seconds);
}

static da_status find_plan(planning *p, da_plan_mode mode) {
    da_selection_step steps[DA_RULE_COUNT];
    const da_entry *first;
    bool found;
    da_demand demand = {p->problem.n, p->problem.dtype, da_attention_config_features(&p->config),
                        p->config.quality_target};
    demand.features |= p->problem.kv_heads != p->problem.heads ? DA_FEATURE_GROUPED_QUERIES : 0;
    da_status status = da_select(p->context, &demand, steps, &first);
    if (status == DA_OK && !da_plans_implementation(first->table.name)) {
        return consider(p, first, p->wish); /* no plan says what tiles are worth */
    }
    if (status == DA_OK) {
        status = recall(p, &demand, &found);
    }
    if (status != DA_OK || found) {
        return status;
    }
    return mode == DA_PLAN_MEASURE ? measure(p, &demand, first) : consider_all(p, &demand, first);
}

static da_status check_call(const da_context *context, da_plan_mode mode, const da_plan_result *result) {
    if (!context) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "context is NULL; allowed: a context");
    }
    if (mode != DA_PLAN_ESTIMATE && mode != DA_PLAN_MEASURE) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "mode is %d; allowed: DA_PLAN_ESTIMATE, DA_PLAN_MEASURE",
                         (int)mode);
    }
    return result ? da_check_result(result, sizeof *result, "result") : DA_OK;
}

da_status da_plan(const da_context *context, const da_attention_config *config, const da_problem *problem,
                  da_plan_mode mode, da_plan_result *result) {
    da_plan_result found = {.size = sizeof found};
    planning p = {.context = context, .result = &found};
    da_status status = check_call(context, mode, result);
    if (status == DA_OK) {
        status = da_attention_config_import(config, &p.config);
    }
    if (status == DA_OK) {
        status = da_check_device(&p.config);
    }
    if (status == DA_OK) {
        status = da_complete_problem(&p.config, problem, &p.problem);
    }
    if (status == DA_OK && p.problem.n == 0) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "problem.n is 0, and so is config.sequence_length; allowed: 1 or "
                                                      "more");
    }
    if (status != DA_OK) {
        return status;
    }
    p.wish = p.config.tuning;
    status = find_plan(&p, mode);
    if (status == DA_OK && result) {
        found.size = result->size;
        *result = found;
    }
    return status;
}
