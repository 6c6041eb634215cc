/* A context: what a call may use of the machine. */
#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "config/validation.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "hardware/hardware.h"
#include "kernels/kernels.h"
#include "planner/calibrate.h"
#include "planner/plans.h"
#include "planner/rates.h"

struct da_context {
    da_allocator allocator;
    da_hardware hardware;
    int threads;
    da_isa isa;
    da_plans *plans; /* borrowed; or NULL */
    da_comm comm;
    bool has_comm;
    da_ranks_options rates;
    da_calibrations *calibrations;
};

void da_context_options_init(da_context_options *options) {
    if (options) {
        *options = (da_context_options){.size = sizeof *options};
    }
}

static da_status check_options(const da_context_options *options) {
    if (options->threads < 0 || options->threads > DA_MAX_THREADS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "threads is %d; allowed: 0 (all cores), or 1 to %d",
                         options->threads, DA_MAX_THREADS);
    }
    da_status status = da_check_allocator(&options->allocator);
    return status == DA_OK ? da_check_enum("isa", (int)options->isa, da_isa_name(options->isa)) : status;
}

/* The CPU features that kernels of an instruction set need. */
static uint32_t features_of(da_isa isa) {
    switch (isa) {
    case DA_ISA_AVX2: return DA_CPU_AVX2 | DA_CPU_FMA | DA_CPU_F16C;
    case DA_ISA_AVX512: return DA_CPU_AVX512 | DA_CPU_FMA | DA_CPU_F16C;
    case DA_ISA_AVX512_BF16: return DA_CPU_AVX512 | DA_CPU_AVX512_BF16 | DA_CPU_FMA | DA_CPU_F16C;
    case DA_ISA_AMX_BF16: return DA_CPU_AVX512 | DA_CPU_AMX_BF16 | DA_CPU_FMA | DA_CPU_F16C;
    case DA_ISA_NEON: return DA_CPU_NEON;
    case DA_ISA_AUTO:
    case DA_ISA_PORTABLE: break;
    }
    return 0;
}

/* NULL if the kernels of an instruction set run with these features, else why not. */
static const char *why_not(da_isa isa, uint32_t cpu_features) {
    if (!da_kernels_built(isa) || (cpu_features & features_of(isa)) != features_of(isa)) {
        return "which this CPU or build lacks";
    }
    if (isa == DA_ISA_AMX_BF16 && !da_permit_tiles()) {
        return "whose registers the operating system does not let this process use";
    }
    return NULL;
}

static bool runs_on(da_isa isa, uint32_t cpu_features) {
    return why_not(isa, cpu_features) == NULL;
}

bool da_isa_available(da_isa isa) {
    da_hardware real;
    da_hardware_init(&real);
    da_detect_cpu("", &real);
    return isa == DA_ISA_AUTO || runs_on(isa, real.cpu_features);
}

static da_status choose_isa(da_context *context, da_isa wish) {
    static const da_isa best_first[] = {DA_ISA_AMX_BF16, DA_ISA_AVX512_BF16, DA_ISA_AVX512,
                                        DA_ISA_AVX2,     DA_ISA_NEON,        DA_ISA_PORTABLE};
    da_hardware real;
    da_hardware_init(&real);
    da_detect_cpu("", &real);
    for (size_t k = 0; k < sizeof best_first / sizeof *best_first; k++) {
        da_isa isa = best_first[k];
        if (wish == DA_ISA_AUTO && isa == DA_ISA_AVX512_BF16 && da_bf16_dot_products_are_slow()) {
            continue;
        }
        /* A made-up description can take instructions away, never add them. */
        if ((wish == DA_ISA_AUTO || wish == isa) && runs_on(isa, real.cpu_features & context->hardware.cpu_features)) {
            context->isa = isa;
            return DA_OK;
        }
    }
    char allowed[128] = "auto";
    for (size_t k = 0; k < sizeof best_first / sizeof *best_first; k++) {
        if (runs_on(best_first[k], real.cpu_features)) {
            size_t length = strlen(allowed);
            snprintf(allowed + length, sizeof allowed - length, ", %s", da_isa_name(best_first[k]));
        }
    }
    const char *reason = why_not(wish, real.cpu_features & context->hardware.cpu_features);
    return da_report(DA_ERROR_UNAVAILABLE, "isa is %s, %s (%s); allowed: %s", da_isa_name(wish), reason, real.cpu_name,
                     allowed);
}

/* Names from a caller may lack their ending zero. */
static void end_names(da_hardware *hardware) {
    hardware->cpu_name[sizeof hardware->cpu_name - 1] = 0;
    hardware->architecture[sizeof hardware->architecture - 1] = 0;
    hardware->gpu_note[sizeof hardware->gpu_note - 1] = 0;
    for (int g = 0; g < DA_MAX_GPUS; g++) {
        hardware->gpus[g].name[sizeof hardware->gpus[g].name - 1] = 0;
    }
}

da_status da_context_create(const da_context_options *options, da_context **out) {
    da_context_options ours;
    da_hardware hardware;
    da_comm comm = {0};
    da_ranks_options rates;
    da_ranks_options_init(&rates);
    if (!out) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: a place for the context");
    }
    *out = NULL;
    da_context_options_init(&ours);
    da_status status = options ? da_copy_sized(&ours, sizeof ours, options, "context_options") : DA_OK;
    if (status == DA_OK) {
        status = check_options(&ours);
    }
    if (status == DA_OK && ours.comm) {
        status = da_comm_import(ours.comm, &comm);
    }
    if (status == DA_OK && ours.rates) {
        status = da_ranks_options_import(ours.rates, &rates, "rates");
    }
    if (status == DA_OK) {
        status = ours.hardware ? da_copy_sized(&hardware, sizeof hardware, ours.hardware, "hardware")
                               : da_hardware_detect(&hardware);
    }
    if (status != DA_OK) {
        return status;
    }
    if (hardware.gpu_count < 0 || hardware.gpu_count > DA_MAX_GPUS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "hardware.gpu_count is %d; allowed: 0 to %d", hardware.gpu_count,
                         DA_MAX_GPUS);
    }
    end_names(&hardware);
    da_context *context = da_allocate(&ours.allocator, 1, sizeof *context);
    if (!context) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *context = (da_context){
        .allocator = ours.allocator,
        .hardware = hardware,
        .threads = ours.threads ? ours.threads : da_usable_cores(),
        .plans = ours.plans,
        .comm = comm,
        .has_comm = ours.comm != NULL,
        .rates = rates,
    };
    status = choose_isa(context, ours.isa);
    if (status == DA_OK) {
        status = da_calibrations_create(&context->allocator, &context->calibrations);
    }
    if (status != DA_OK) {
        da_context_free(context);
        return status;
    }
    *out = context;
    return DA_OK;
}

void da_context_free(da_context *context) {
    if (context) {
        da_allocator allocator = context->allocator;
        da_calibrations_free(context->calibrations, &allocator);
        da_release(&allocator, context);
    }
}

const da_hardware *da_context_hardware(const da_context *context) {
    return context ? &context->hardware : NULL;
}

int da_context_threads(const da_context *context) {
    return context ? context->threads : 0;
}

da_isa da_context_isa(const da_context *context) {
    return context ? context->isa : DA_ISA_AUTO;
}

const da_allocator *da_context_allocator(const da_context *context) {
    return context ? &context->allocator : NULL;
}

const da_comm *da_context_comm(const da_context *context) {
    return context && context->has_comm ? &context->comm : NULL;
}

const da_ranks_options *da_context_rates(const da_context *context) {
    return &context->rates;
}

da_plans *da_context_plans(const da_context *context) {
    return context->plans;
}

da_calibrations *da_context_calibrations(const da_context *context) {
    return context->calibrations;
}
