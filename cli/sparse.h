/* What commands that compute share of block_sparse: files that say which tiles, and the report of what was computed. */
#ifndef DA_CLI_SPARSE_H
#define DA_CLI_SPARSE_H

#include <jansson.h>

#include "configuration.h"

#define SPARSE_OPTION_COUNT 2

typedef struct sparse_files {
    const char *mask_path, *profile_path; /* NULL: not given */
    da_tile_mask *mask;
    da_sparse_profile *profile;
} sparse_files;

void sparse_options(sparse_files *chosen, cli_option table[SPARSE_OPTION_COUNT]);

/* Refuses options of block_sparse where no implementation that is asked for takes notice of them: `takes_notice` says
 * whether one does, `names` which they are. Returns CLI_CONTINUE, or CLI_USAGE after a message. */
int sparse_check(const sparse_files *files, const configuration *chosen, const char *command, const char *names,
                 bool takes_notice);

/* Reads the files that were given, for sequences of n tokens, and puts into the configuration what they say; it may be
 * called again for another n. Returns CLI_CONTINUE, or an exit code after a message. sparse_close may follow. */
int sparse_open(sparse_files *chosen, const configuration *options, const char *command, int64_t n,
                da_attention_config *config);
void sparse_close(sparse_files *chosen);

/* The tiles that a call of block_sparse computes, and what they are of all; *tiles is NULL, and the report as
 * da_sparse_report_init makes it, for other implementations. options: of the call; may be NULL. */
da_status sparse_tiles(const da_attention *attention, const da_tensor *query, const da_tensor *key,
                       const da_call_options *options, da_tile_mask **tiles, da_sparse_report *report);

/* Whether a pair of query and key lies in a tile that is kept; tiles NULL: all are. */
bool sparse_keeps(const da_tile_mask *tiles, int64_t batch, int64_t head, int64_t i, int64_t j);

/* For programs and for people; NULL and no word where no tiles were chosen. */
json_t *sparse_json(const da_sparse_report *report);
void sparse_print(const char *before, const da_sparse_report *report);

#endif
