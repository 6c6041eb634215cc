/* What a run that can be resumed keeps beside its partial output: a small text file of all that the result depends on, and
 * how many tokens are finished. */
#ifndef DA_CLI_PARTIAL_H
#define DA_CLI_PARTIAL_H

#include "results.h"

/* What the bits of a result depend on. */
typedef struct partial_subject {
    const da_attention_config *config; /* with the tuning that is used */
    const da_context *context;
    const da_problem *problem;
    axis_order order;
    const loaded_tensor *inputs[3];
    const char *key_mask; /* path, or NULL */
    const cli_list *lengths;
    bool has_lse;
} partial_subject;

typedef struct partial {
    char *path; /* of the state's file; NULL: none */
    char *text; /* all but the last line */
    int64_t block;
    int64_t finished; /* tokens */
} partial;

/* Begins the state of new partial results, with nothing finished, and writes it. Returns CLI_CONTINUE, or an exit code after
 * a message; partial_free may follow. */
int partial_begin(partial *state, const char *command, const results *written, const partial_subject *subject,
                  int64_t block);

/* Reads the state that belongs to partial results, and refuses it with a message where it is of another run. */
int partial_resume(partial *state, const char *command, const results *written, const partial_subject *subject);

/* Brings the results to the disk, and then says that so many tokens of them are finished. */
int partial_save(partial *state, const char *command, const results *written, int64_t finished);

/* The results are whole, or given up: removes the file. */
void partial_remove(partial *state);
void partial_free(partial *state);

#endif
