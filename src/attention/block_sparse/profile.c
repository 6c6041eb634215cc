#include "attention/block_sparse/profile.h"

#include <inttypes.h>
#include <math.h>

#include "attention/block_sparse/learn.h"
#include "attention/call.h"
#include "config/validation.h"
#include "core/memory.h"
#include "core/parallel.h"

/* Content is taken only if it needs so much fewer tiles than the best other pattern: choosing takes time. */
#define CONTENT_GAIN 0.9

static const da_sparse_pattern patterns[] = {DA_SPARSE_LOCAL_WINDOW, DA_SPARSE_GLOBAL_LOCAL, DA_SPARSE_DILATED_SPARSE,
                                             DA_SPARSE_AXIAL,        DA_SPARSE_RANDOM,       DA_SPARSE_HYBRID,
                                             DA_SPARSE_CONTENT};
enum { PATTERNS = sizeof patterns / sizeof *patterns };

da_status da_sparse_profile_allocate(const da_allocator *allocator, int64_t heads, da_sparse_profile **out) {
    *out = da_allocate(allocator, 1, sizeof(da_sparse_profile) + (size_t)heads * sizeof(da_sparse_rule));
    if (!*out) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    **out = (da_sparse_profile){.allocator = allocator ? *allocator : (da_allocator){0}, .heads = heads};
    return DA_OK;
}

void da_sparse_profile_free(da_sparse_profile *profile) {
    if (profile) {
        da_allocator allocator = profile->allocator;
        da_release(&allocator, profile);
    }
}

da_status da_sparse_profile_check(const da_attention_config *config, int64_t heads) {
    const da_sparse_profile *profile = config->sparse_profile;
    if (config->sparse_pattern != DA_SPARSE_PROFILE || profile->heads == heads) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT,
                     "sparse_profile is of %" PRId64 " heads; allowed: %" PRId64 ", as query", profile->heads, heads);
}

/* ---- finding rules ------------------------------------------------------------------------------------------------- */

typedef struct profiling {
    da_learner learner; /* as each head begins */
    double target;
    char *memory; /* of each head that is at hand */
    size_t memory_size;
    double (*ratios)[PATTERNS]; /* of each batch element and head */
} profiling;

static void profile_head(int64_t sequence, int thread, void *user) {
    const profiling *job = user;
    da_learner learner = job->learner;
    da_sparse_head_at(&learner.head, sequence);
    (void)da_learner_lay_out(&learner, job->memory + (size_t)thread * job->memory_size);
    da_learner_run(&learner);
    for (int p = 0; p < PATTERNS; p++) {
        const da_sparse_rule rule = {patterns[p], da_learner_ratio(&learner, patterns[p], job->target)};
        job->ratios[sequence][p] = da_learner_rule_pays(&learner, &rule) ? rule.ratio : 1;
    }
}

/* The rule of a head, from what its sequences need. */
static da_sparse_rule choose_rule(const profiling *job, int64_t head, int64_t batch) {
    da_sparse_rule rule = {DA_SPARSE_CONTENT, 2};
    for (int p = 0; p < PATTERNS; p++) {
        double ratio = 0;
        for (int64_t b = 0; b < batch; b++) {
            ratio = fmax(ratio, job->ratios[b * job->learner.head.heads + head][p]);
        }
        if (ratio < (patterns[p] == DA_SPARSE_CONTENT ? CONTENT_GAIN : 1) * rule.ratio) {
            rule = (da_sparse_rule){patterns[p], ratio};
        }
    }
    return rule;
}

static da_status find_rules(profiling *job, int64_t batch, da_sparse_profile *profile) {
    const da_allocator *allocator = da_context_allocator(job->learner.head.context);
    int64_t sequences = batch * profile->heads;
    int threads = da_learner_plan(&job->learner, sequences);
    job->memory_size = da_learner_most(&job->learner);
    job->memory = da_allocate(allocator, (size_t)threads, job->memory_size);
    job->ratios = da_allocate(allocator, (size_t)sequences, sizeof *job->ratios);
    bool has_memory = job->memory && job->ratios;
    if (has_memory) {
        da_parallel_for(threads, sequences, profile_head, job);
        for (int64_t head = 0; head < profile->heads; head++) {
            profile->rules[head] = choose_rule(job, head, batch);
        }
    }
    da_release(allocator, job->memory);
    da_release(allocator, job->ratios);
    return has_memory ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
}

static da_status check_create(const da_context *context, const da_attention_config *config, double quality_target,
                              da_attention_config *ours) {
    if (!context) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "context is NULL; allowed: what da_context_create made");
    }
    da_status status = da_attention_config_import(config, ours);
    if (status == DA_OK && !(quality_target > 0 && quality_target < 1)) {
        status =
            da_report(DA_ERROR_INVALID_ARGUMENT, "quality_target is %g; allowed: above 0 and below 1", quality_target);
    }
    return status;
}

da_status da_sparse_profile_create(const da_context *context, const da_attention_config *config, const da_tensor *query,
                                   const da_tensor *key, const da_call_options *options, double quality_target,
                                   da_sparse_profile **out) {
    da_attention_config ours;
    da_call_terms terms;
    if (!out) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: a place for the profile");
    }
    *out = NULL;
    da_status status = check_create(context, config, quality_target, &ours);
    if (status == DA_OK) {
        status = da_tiles_check(&ours, query, key, options, &terms);
    }
    if (status == DA_OK && query->shape[2] > DA_MAX_PROFILE_HEADS) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "query has %" PRId64 " heads; allowed: up to %d for a profile",
                           query->shape[2], DA_MAX_PROFILE_HEADS);
    }
    if (status == DA_OK) {
        status = da_sparse_profile_allocate(da_context_allocator(context), query->shape[2], out);
    }
    if (status != DA_OK) {
        return status;
    }
    profiling job = {.target = quality_target, .learner = {.estimates = true, .has_target = true}};
    (*out)->block_size = ours.block_size;
    (*out)->quality_target = quality_target;
    da_sparse_head_init(&job.learner.head, context, &ours, query, key, &terms.options);
    status = find_rules(&job, query->shape[0], *out);
    if (status != DA_OK) {
        da_sparse_profile_free(*out);
        *out = NULL;
    }
    return status;
}

/* ---- what it says -------------------------------------------------------------------------------------------------- */

static da_status check_profile(const da_sparse_profile *profile) {
    return profile ? DA_OK
                   : da_report(DA_ERROR_INVALID_ARGUMENT, "profile is NULL; allowed: what da_sparse_profile_create or "
                                                          "da_sparse_profile_load made");
}

void da_sparse_profile_info_init(da_sparse_profile_info *info) {
    if (info) {
        *info = (da_sparse_profile_info){.size = sizeof *info};
    }
}

da_status da_sparse_profile_get_info(const da_sparse_profile *profile, da_sparse_profile_info *info) {
    da_status status = check_profile(profile);
    if (status == DA_OK) {
        status = da_check_result(info, sizeof *info, "info");
    }
    if (status != DA_OK) {
        return status;
    }
    info->heads = profile->heads;
    info->block_size = profile->block_size;
    info->quality_target = profile->quality_target;
    return DA_OK;
}

da_status da_sparse_profile_head(const da_sparse_profile *profile, int64_t head, da_sparse_pattern *pattern,
                                 double *ratio) {
    da_status status = check_profile(profile);
    if (status != DA_OK) {
        return status;
    }
    if (head < 0 || head >= profile->heads) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "head is %" PRId64 "; allowed: 0 to heads - 1, which is %" PRId64,
                         head, profile->heads - 1);
    }
    if (!pattern || !ratio) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: a place for the result",
                         pattern ? "ratio" : "pattern");
    }
    *pattern = profile->rules[head].pattern;
    *ratio = profile->rules[head].ratio;
    return DA_OK;
}
