/* The options that say how a command computes: threads and instruction set; and the context made from them. */
#ifndef DA_CLI_MACHINE_H
#define DA_CLI_MACHINE_H

#include "network.h"

#define MACHINE_OPTION_COUNT 2

typedef struct machine {
    int64_t threads;        /* 0: one per core */
    const char *isa;        /* NULL: the best that runs here */
    const da_comm *comm;    /* NULL: this process is alone; no option says so */
    const network *network; /* of several ranks, for the choice of `distributed`; NULL: the library's default */
} machine;

void machine_options(machine *chosen, cli_option table[MACHINE_OPTION_COUNT]);

/* Creates the context; hardware NULL: what is found here; plans NULL: none. Returns CLI_CONTINUE, or an exit code after a
 * message. */
int machine_context(const machine *chosen, const char *command, const da_hardware *hardware, da_plans *plans,
                    da_context **context);

#endif
