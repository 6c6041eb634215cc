/* Files that `run` writes: under temporary names until all have succeeded. */
#ifndef DA_CLI_RESULTS_H
#define DA_CLI_RESULTS_H

#include "tensors.h"

#include <limits.h>

#define RESULTS_MAX 2

/* Under names that nobody sees, or, so that a run can be resumed, as OUT.partial: new ones, or those that are there. */
typedef enum results_kind { RESULTS_TEMPORARY, RESULTS_PARTIAL, RESULTS_RESUMED } results_kind;

typedef struct results {
    results_kind kind;
    const char *options[RESULTS_MAX], *paths[RESULTS_MAX];
    da_tensor_writer writers[RESULTS_MAX]; /* output, then logsumexp */
    size_t count;
    da_tensor out, lse; /* views of the writers' memory */
    bool has_lse;
} results;

/* The path of a tensor's file, without the name behind ".safetensors:". False: too long. */
bool file_of_tensor(const char *path, char file[PATH_MAX]);

/* True if two paths name one file, be it through links or other spellings, and whether or not it exists. A tensor's
 * name after ".safetensors:" plays no part. */
bool same_file(const char *a, const char *b);

/* Opens the output, shaped, ordered and typed as the query, and the logsumexp, without the last axis, if lse_path is
 * not NULL. Returns CLI_CONTINUE, or an exit code after a message with nothing left behind. */
int results_open(results *written, const char *command, const char *out_path, const char *lse_path,
                 const loaded_tensor *query, axis_order order, results_kind kind);
/* Gives all files their names, or, after a message, leaves none. */
int results_commit(results *written, const char *command);
void results_abandon(results *written);
/* Closes partial results and leaves them. */
void results_keep(results *written);

#endif
