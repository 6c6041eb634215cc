#include "machine.h"

#include <string.h>

static bool read_isa(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    da_isa isa;
    return cli_keep_name(option, text, da_isa_from_name(text, &isa), allowed, allowed_size);
}

void machine_options(machine *chosen, cli_option table[MACHINE_OPTION_COUNT]) {
    const cli_option options[MACHINE_OPTION_COUNT] = {
        {"threads", "T", "threads (default: one per core)", cli_read_integer, &chosen->threads, 1, 1024},
        {"isa", "I", "instruction set: auto (default), portable, avx2, avx512, avx512_bf16, amx_bf16, neon", read_isa,
         &chosen->isa, 0, 0},
    };
    memcpy(table, options, sizeof(options));
}

int machine_context(const machine *chosen, const char *command, const da_hardware *hardware, da_plans *plans,
                    da_context **context) {
    da_context_options options;
    da_ranks_options rates;
    da_context_options_init(&options);
    da_ranks_options_init(&rates);
    if (chosen->network != NULL) {
        network_apply(chosen->network, &rates);
        options.rates = &rates;
    }
    options.threads = (int)chosen->threads;
    options.hardware = hardware;
    options.plans = plans;
    options.comm = chosen->comm;
    if (chosen->isa != NULL) {
        da_isa_from_name(chosen->isa, &options.isa);
    }
    da_status status = da_context_create(&options, context);
    return status == DA_OK ? CLI_CONTINUE : cli_refused(command, status);
}
