/* Handles: creation by name, and the dispatch of calls to the implementation behind a handle. */
#include <stdio.h>
#include <string.h>

#include "attention/call.h"
#include "attention/ranks/meeting.h"
#include "attention/ranks/ranks.h"
#include "attention/workspace.h"
#include "comm/comm.h"
#include "config/validation.h"
#include "core/memory.h"
#include "factory/registry.h"
#include "factory/select.h"
#include "planner/plans.h"

struct da_attention {
    const da_context *context;
    da_attention_config config;
    const da_entry *entry;
    void *state;
    bool holds_part;    /* tensors hold this rank's part, and calls are collective */
    bool follows_plans; /* takes the tuning that the context remembers for a call's problem */
};

static da_status report_null(const char *argument, const char *allowed) {
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", argument, allowed);
}

/* Do ranks meet when an implementation of this name is created? */
static bool ranks_meet(const da_context *context, const char *name) {
    const da_entry *entry;
    if (!da_has_ranks(context)) {
        return false;
    }
    return strcmp(name, "auto") == 0 ||
           (da_registry_find(name, &entry) == DA_OK && entry->built_in && (entry->table.features & DA_FEATURE_PARTS));
}

/* Where ranks meet, one that is refused comes too: the others would wait for it. */
static da_status refuse_creation(const da_context *context, const char *name, da_status status) {
    char message[1024];
    snprintf(message, sizeof message, "%s", da_last_error_message());
    if (ranks_meet(context, name)) {
        da_meeting_refuse(context, status);
    }
    return da_report(status, "%s", message);
}

static da_status choose_entry(const da_context *context, const char *name, const da_attention_config *config,
                              const da_entry **out) {
    const da_demand demand = {config->sequence_length, config->dtype, da_attention_config_features(config),
                              config->quality_target};
    da_selection_step steps[DA_RULE_COUNT];
    char reason[DA_REASON_SIZE];
    if (strcmp(name, "auto") == 0) {
        return da_select(context, &demand, steps, out);
    }
    da_status status = da_registry_find(name, out);
    if (status != DA_OK) {
        return status;
    }
    if (!da_entry_available(*out, context, reason)) {
        return da_report(DA_ERROR_UNAVAILABLE, "implementation \"%s\" cannot run here: %s", name, reason);
    }
    if (!da_entry_takes(*out, demand.dtype, demand.features, reason)) {
        return da_report(DA_ERROR_UNSUPPORTED, "implementation \"%s\" %s", name, reason);
    }
    return DA_OK;
}

static da_status make_handle(const da_context *context, const da_attention_config *config, const da_entry *entry,
                             da_attention **out) {
    const da_implementation *table = &entry->table;
    da_attention *attention = da_allocate(da_context_allocator(context), 1, sizeof *attention);
    if (!attention) {
        return refuse_creation(context, table->name, DA_ERROR_OUT_OF_MEMORY);
    }
    const da_comm *comm = da_context_comm(context);
    *attention = (da_attention){.context = context, .config = *config, .entry = entry};
    attention->holds_part = comm && comm->ranks > 1 && (table->features & DA_FEATURE_PARTS);
    if (table->create) {
        da_status status = table->create(context, &attention->config, table->user, &attention->state);
        if (status != DA_OK) {
            da_release(da_context_allocator(context), attention);
            return status;
        }
    }
    *out = attention;
    return DA_OK;
}

da_status da_attention_create(const da_context *context, const char *name, const da_attention_config *config,
                              da_attention **out) {
    da_attention_config ours;
    const da_entry *entry;
    if (!out) {
        return report_null("out", "a place for the attention");
    }
    *out = NULL;
    if (!context || !name) {
        return context ? report_null("name", "\"auto\" or a registered name") : report_null("context", "a context");
    }
    da_status status = da_attention_config_import(config, &ours);
    if (status == DA_OK) {
        status = da_check_device(&ours);
    }
    if (status == DA_OK) {
        status = choose_entry(context, name, &ours, &entry);
    }
    if (status != DA_OK) {
        return refuse_creation(context, name, status);
    }
    status = make_handle(context, &ours, entry, out);
    if (status == DA_OK) {
        (*out)->follows_plans =
            strcmp(name, "auto") == 0 && da_context_plans(context) && da_tuning_is_open(&ours.tuning);
    }
    return status;
}

void da_attention_free(da_attention *attention) {
    if (!attention) {
        return;
    }
    const da_implementation *table = &attention->entry->table;
    if (table->destroy) {
        table->destroy(attention->state, table->user);
    }
    da_release(da_context_allocator(attention->context), attention);
}

const char *da_attention_implementation(const da_attention *attention) {
    return attention ? attention->entry->table.name : NULL;
}

/* The features that tensors and options of a call ask for. */
static uint32_t call_features(const da_tensor *query, const da_tensor *key, const da_call_terms *terms) {
    uint32_t features = 0;
    features |= key->shape[2] != query->shape[2] ? DA_FEATURE_GROUPED_QUERIES : 0;
    features |= terms->options.key_lengths || terms->options.key_mask ? DA_FEATURE_KEY_PADDING : 0;
    features |= terms->dropout > 0 ? DA_FEATURE_DROPOUT : 0;
    features |= terms->options.query_end != 0 ? DA_FEATURE_QUERY_RANGE : 0;
    return features;
}

static da_status check_takes(const da_attention *attention, da_dtype dtype, uint32_t features) {
    char reason[DA_REASON_SIZE];
    if (!da_entry_takes(attention->entry, dtype, features, reason)) {
        return da_report(DA_ERROR_UNSUPPORTED, "implementation \"%s\" %s", attention->entry->table.name, reason);
    }
    return DA_OK;
}

/* The other ranks need not wait for one whose arguments were refused. */
static da_status refuse(const da_attention *attention, da_status status) {
    if (attention->holds_part) {
        da_comm_abandon(da_context_comm(attention->context));
    }
    return status;
}

static da_status check_has_backward(const da_attention *attention) {
    if (!attention->entry->table.backward) {
        return da_report(DA_ERROR_UNSUPPORTED, "implementation \"%s\" has no backward pass",
                         attention->entry->table.name);
    }
    return DA_OK;
}

/* The configuration that a call runs by: the handle's own, or `planned`, with the tuning of a plan for the problem. */
static const da_attention_config *config_for(const da_attention *attention, const da_problem *problem,
                                             da_attention_config *planned) {
    da_remembered plan;
    if (!attention->follows_plans || problem->n == 0 ||
        !da_plans_find(attention->context, &attention->config, problem, &plan) ||
        strcmp(plan.implementation, attention->entry->table.name) != 0) {
        return &attention->config;
    }
    *planned = attention->config;
    planned->tuning = plan.tuning;
    return planned;
}

da_status da_attention_forward(const da_attention *attention, const da_tensor *query, const da_tensor *key,
                               const da_tensor *value, const da_tensor *out, const da_tensor *lse,
                               const da_call_options *options) {
    da_call_terms terms;
    if (!attention) {
        return report_null("attention", "what da_attention_create made");
    }
    da_status status =
        da_forward_check(&attention->config, attention->holds_part, query, key, value, out, lse, options, &terms);
    if (status == DA_OK) {
        uint32_t features = call_features(query, key, &terms) | (lse ? DA_FEATURE_LOGSUMEXP : 0);
        status = check_takes(attention, query->dtype, features);
    }
    if (status != DA_OK) {
        return refuse(attention, status);
    }
    const da_implementation *table = &attention->entry->table;
    da_problem problem;
    da_attention_config planned;
    da_problem_of_tensors(query, key, &problem);
    const da_forward_call call = {
        .context = attention->context,
        .config = config_for(attention, &problem, &planned),
        .query = query,
        .key = key,
        .value = value,
        .out = out,
        .lse = lse,
        .options = &terms.options,
        .scale = terms.scale,
        .dropout = terms.dropout,
    };
    return table->forward(attention->state, &call, table->user);
}

da_status da_attention_tiles(const da_attention *attention, const da_tensor *query, const da_tensor *key,
                             const da_call_options *options, da_tile_mask **out, da_sparse_report *report) {
    da_call_terms terms;
    if (!out) {
        return report_null("out", "a place for the mask");
    }
    *out = NULL;
    if (!attention) {
        return report_null("attention", "what da_attention_create made");
    }
    const da_implementation *table = &attention->entry->table;
    if (!table->tiles) {
        return da_report(DA_ERROR_UNSUPPORTED, "implementation \"%s\" chooses no tiles: it computes all", table->name);
    }
    da_status status = da_tiles_check(&attention->config, query, key, options, &terms);
    if (status == DA_OK) {
        status = check_takes(attention, query->dtype, call_features(query, key, &terms));
    }
    if (status != DA_OK) {
        return status;
    }
    const da_forward_call call = {
        .context = attention->context,
        .config = &attention->config,
        .query = query,
        .key = key,
        .options = &terms.options,
        .scale = terms.scale,
        .dropout = terms.dropout,
    };
    return table->tiles(attention->state, &call, out, report, table->user);
}

da_status da_attention_backward(const da_attention *attention, const da_backward_tensors *tensors,
                                const da_call_options *options) {
    da_backward_tensors ours;
    da_call_terms terms;
    if (!attention) {
        return report_null("attention", "what da_attention_create made");
    }
    da_status status = da_copy_sized(&ours, sizeof ours, tensors, "tensors");
    if (status == DA_OK) {
        status = check_has_backward(attention);
    }
    if (status == DA_OK) {
        status = da_backward_check(&attention->config, attention->holds_part, &ours, options, &terms);
    }
    if (status == DA_OK) {
        status = check_takes(attention, ours.query->dtype, call_features(ours.query, ours.key, &terms));
    }
    if (status != DA_OK) {
        return refuse(attention, status);
    }
    const da_implementation *table = &attention->entry->table;
    const da_backward_call call = {
        .context = attention->context,
        .config = &attention->config,
        .tensors = &ours,
        .options = &terms.options,
        .scale = terms.scale,
        .dropout = terms.dropout,
    };
    return table->backward(attention->state, &call, table->user);
}

static da_status check_workspace_call(const da_attention *attention, const da_problem *problem, const size_t *bytes,
                                      da_problem *ours) {
    if (!attention || !bytes) {
        return attention ? report_null("bytes", "a place for the number")
                         : report_null("attention", "what da_attention_create made");
    }
    if (!problem) {
        return report_null("problem", "a struct filled by da_problem_init");
    }
    return da_complete_problem(&attention->config, problem, ours);
}

da_status da_attention_workspace(const da_attention *attention, const da_problem *problem, size_t *bytes) {
    da_problem ours;
    da_attention_config planned;
    da_status status = check_workspace_call(attention, problem, bytes, &ours);
    if (status == DA_OK) {
        const da_implementation *table = &attention->entry->table;
        const da_attention_config *config = config_for(attention, &ours, &planned);
        *bytes = table->workspace ? table->workspace(attention->context, config, &ours, table->user) : 0;
    }
    return status;
}

da_status da_attention_backward_workspace(const da_attention *attention, const da_problem *problem, size_t *bytes) {
    da_problem ours;
    da_status status = check_workspace_call(attention, problem, bytes, &ours);
    if (status == DA_OK) {
        status = check_has_backward(attention);
    }
    if (status == DA_OK) {
        const da_implementation *table = &attention->entry->table;
        *bytes = table->backward_workspace
                     ? table->backward_workspace(attention->context, &attention->config, &ours, table->user)
                     : 0;
    }
    return status;
}
