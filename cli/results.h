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
    da_tensor out, lse; /* views of the writers' memory, or of `own` */
    bool has_lse;
    da_tensor whole[RESULTS_MAX]; /* views of the writers' memory */
    void *own[RESULTS_MAX];       /* rows of a part of several stretches, until they are placed */
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

/* Several processes write the files, a part of the rows each. One opens and commits; the others join it, are done with their
 * rows, and leave before it commits. */
int results_places(const results *written, const char *command, da_tensor_place places[RESULTS_MAX]);
int results_join(results *written, const char *command, const da_tensor_place places[RESULTS_MAX], bool has_lse,
                 const loaded_tensor *query, axis_order order);
/* out and lse become views of the rows of a part alone. */
int results_take(results *written, const char *command, const da_part *part);
/* Brings the rows of the part to their places, and to the disk. */
int results_place_rows(results *written, const char *command, const da_part *part, int threads);
void results_leave(results *written);

#endif
