#include "factory/select.h"

#include <stdio.h>
#include <string.h>

#include "config/validation.h"

enum { RING_TOKENS = 100000, DISTRIBUTED_TOKENS = 50000 };

void da_format_number(double number, char text[DA_NUMBER_SIZE]) {
    char digits[DA_NUMBER_SIZE];
    if (!(number >= 0 && number < 1e15)) {
        snprintf(text, DA_NUMBER_SIZE, "%.3e", number);
        return;
    }
    size_t length = (size_t)snprintf(digits, sizeof digits, "%.0f", number), written = 0;
    for (size_t k = 0; k < length; k++) {
        if (k > 0 && (length - k) % 3 == 0) {
            text[written++] = ',';
        }
        text[written++] = digits[k];
    }
    text[written] = '\0';
}

static void format_length(int64_t length, char text[DA_NUMBER_SIZE + 16]) {
    char number[DA_NUMBER_SIZE];
    if (length == 0) {
        snprintf(text, DA_NUMBER_SIZE + 16, "unknown length");
        return;
    }
    da_format_number((double)length, number);
    snprintf(text, DA_NUMBER_SIZE + 16, "%s token%s", number, length == 1 ? "" : "s");
}

static const char *plural(int count) {
    return count == 1 ? "" : "s";
}

/* Hopper: by name, or by its compute capability, 9.x. */
static const da_gpu *find_h100(const da_hardware *hardware) {
    for (int k = 0; k < hardware->gpu_count; k++) {
        const da_gpu *gpu = &hardware->gpus[k];
        if (gpu->compute_major == 9 || strstr(gpu->name, "H100") || strstr(gpu->name, "GH200")) {
            return gpu;
        }
    }
    return NULL;
}

static bool has_flash_3_and_h100(const da_facts *facts) {
    return facts->hardware->flash_attention_3 && find_h100(facts->hardware);
}

static void describe_flash_3_and_h100(const da_facts *facts, char text[DA_FACTS_SIZE]) {
    const da_hardware *hardware = facts->hardware;
    const char *flash = hardware->flash_attention_3 ? "flash attention 3" : "no flash attention 3";
    const da_gpu *h100 = find_h100(hardware);
    if (h100) {
        snprintf(text, DA_FACTS_SIZE, "%s; GPU %d is %s", flash, (int)(h100 - hardware->gpus),
                 h100->name[0] ? h100->name : "an H100 by its compute capability");
    } else if (hardware->gpu_count == 0) {
        snprintf(text, DA_FACTS_SIZE, "%s; no GPU", flash);
    } else {
        snprintf(text, DA_FACTS_SIZE, "%s; %d GPU%s, no H100", flash, hardware->gpu_count, plural(hardware->gpu_count));
    }
}

static bool is_very_long(const da_facts *facts) {
    return facts->length > RING_TOKENS;
}

static void describe_length(const da_facts *facts, char text[DA_FACTS_SIZE]) {
    format_length(facts->length, text);
}

static bool is_distributed(const da_facts *facts) {
    return facts->ranks > 1 || (facts->hardware->gpu_count > 1 && facts->length > DISTRIBUTED_TOKENS);
}

static void describe_ranks_gpus_and_length(const da_facts *facts, char text[DA_FACTS_SIZE]) {
    char length[DA_NUMBER_SIZE + 16];
    int gpus = facts->hardware->gpu_count;
    format_length(facts->length, length);
    snprintf(text, DA_FACTS_SIZE, "%d rank%s; %d GPU%s; %s", facts->ranks, plural(facts->ranks), gpus, plural(gpus),
             length);
}

static bool has_gpu_kernel(const da_hardware *hardware) {
    return hardware->gpu_count > 0 && (hardware->flash_attention_2 || hardware->flash_attention_3);
}

static bool has_flash_kernel(const da_facts *facts) {
    return has_gpu_kernel(facts->hardware) || facts->isa != DA_ISA_PORTABLE;
}

static void describe_flash_kernel(const da_facts *facts, char text[DA_FACTS_SIZE]) {
    const da_hardware *hardware = facts->hardware;
    const char *gpu = !has_gpu_kernel(hardware)     ? "no flash attention on a GPU"
                      : hardware->flash_attention_3 ? "flash attention 3 on a GPU"
                                                    : "flash attention 2 on a GPU";
    if (facts->isa == DA_ISA_PORTABLE) {
        snprintf(text, DA_FACTS_SIZE, "%s; no vector kernels on the CPU", gpu);
    } else {
        snprintf(text, DA_FACTS_SIZE, "%s; %s kernels on the CPU", gpu, da_isa_name(facts->isa));
    }
}

static bool is_always_true(const da_facts *facts) {
    return true;
}

static void describe_nothing(const da_facts *facts, char text[DA_FACTS_SIZE]) {
    snprintf(text, DA_FACTS_SIZE, "needs nothing");
}

static bool trades_quality(const da_facts *facts) {
    return facts->quality_target > 0 && facts->quality_target < 1;
}

static void describe_quality(const da_facts *facts, char text[DA_FACTS_SIZE]) {
    if (trades_quality(facts)) {
        snprintf(text, DA_FACTS_SIZE, "quality_target %g", facts->quality_target);
    } else {
        snprintf(text, DA_FACTS_SIZE, "none");
    }
}

const da_selection_rule da_selection_rules[DA_RULE_COUNT] = {
    {"a quality target below 1", trades_quality, describe_quality, "block_sparse"},
    {"flash attention 3 and an H100", has_flash_3_and_h100, describe_flash_3_and_h100, "improved"},
    {"more than 100,000 tokens", is_very_long, describe_length, "ring"},
    {"several ranks, or several GPUs and more than 50,000 tokens", is_distributed, describe_ranks_gpus_and_length,
     "distributed"},
    {"a flash kernel is available", has_flash_kernel, describe_flash_kernel, "improved"},
    {"otherwise", is_always_true, describe_nothing, "standard"},
};

bool da_entry_fits(const da_entry *entry, const da_context *context, const da_demand *demand,
                   char reason[DA_REASON_SIZE]) {
    return da_entry_available(entry, context, reason) && da_entry_takes(entry, demand->dtype, demand->features, reason);
}

da_status da_check_device(const da_attention_config *config) {
    if (config->device != DA_DEVICE_CUDA) {
        return DA_OK;
    }
    return da_report(DA_ERROR_UNAVAILABLE,
                     "config.device is cuda, but this version (%s) has no GPU kernels; allowed: auto, cpu",
                     da_version());
}

da_status da_complete_problem(const da_attention_config *config, const da_problem *theirs, da_problem *ours) {
    da_problem complete;
    da_problem_init(&complete);
    complete.dtype = config->dtype == DA_DTYPE_ANY ? DA_F32 : config->dtype;
    if (theirs) {
        da_status status = da_problem_import(theirs, &complete);
        if (status != DA_OK) {
            return status;
        }
    }
    if (complete.n == 0) {
        complete.n = config->sequence_length;
    }
    if (config->dtype != DA_DTYPE_ANY && config->dtype != complete.dtype) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "problem.dtype is %s; allowed: %s, as the configuration says",
                         da_dtype_name(complete.dtype), da_dtype_name(config->dtype));
    }
    return da_problem_import(&complete, ours);
}

static int ranks_of(const da_context *context) {
    const da_comm *comm = da_context_comm(context);
    return comm ? comm->ranks : 1;
}

/* Where a rank's tensors are a part, an implementation that took them to be whole would compute something else. */
static bool takes_parts(const da_entry *entry, const da_context *context, char reason[DA_REASON_SIZE]) {
    bool takes = ranks_of(context) == 1 || (entry->table.features & DA_FEATURE_PARTS);
    if (!takes) {
        snprintf(reason, DA_REASON_SIZE, "takes tensors to be whole, not a part for each of %d ranks",
                 ranks_of(context));
    }
    return takes;
}

/* Fills the step of a rule that is reached; *choice becomes its implementation if that fits. */
static da_status try_rule(const da_selection_rule *rule, const da_context *context, const da_demand *demand,
                          da_selection_step *step, const da_entry **choice) {
    char reason[DA_REASON_SIZE];
    const da_entry *entry;
    if (!step->holds) {
        snprintf(step->outcome, sizeof step->outcome, "does not apply");
        return DA_OK;
    }
    da_status status = da_registry_find(rule->implementation, &entry);
    if (status != DA_OK) {
        return status;
    }
    step->chosen = takes_parts(entry, context, reason) && da_entry_fits(entry, context, demand, reason);
    if (step->chosen) {
        *choice = entry;
        snprintf(step->outcome, sizeof step->outcome, "chosen");
    } else {
        snprintf(step->outcome, sizeof step->outcome, "passed over: %s", reason);
    }
    return DA_OK;
}

da_status da_select(const da_context *context, const da_demand *demand, da_selection_step steps[DA_RULE_COUNT],
                    const da_entry **out) {
    const da_facts facts = {da_context_hardware(context), da_context_isa(context), demand->length, ranks_of(context),
                            demand->quality_target};
    *out = NULL;
    for (int k = 0; k < DA_RULE_COUNT; k++) {
        const da_selection_rule *rule = &da_selection_rules[k];
        da_selection_step *step = &steps[k];
        *step = (da_selection_step){.holds = rule->holds(&facts)};
        rule->describe(&facts, step->facts);
        if (*out) {
            snprintf(step->outcome, sizeof step->outcome, "not reached");
            continue;
        }
        da_status status = try_rule(rule, context, demand, step, out);
        if (status != DA_OK) {
            return status;
        }
    }
    if (!*out) {
        return da_report(DA_ERROR_UNSUPPORTED, "no implementation that \"auto\" knows fits; the last, %s, was %s",
                         da_selection_rules[DA_RULE_COUNT - 1].implementation, steps[DA_RULE_COUNT - 1].outcome);
    }
    return DA_OK;
}
