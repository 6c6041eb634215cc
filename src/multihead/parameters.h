/* The parameters of a module: one table of names and shapes, which parameters, gradients and files share. */
#ifndef DA_MULTIHEAD_PARAMETERS_H
#define DA_MULTIHEAD_PARAMETERS_H

#include "core/memory.h"
#include "dilated_attention_nn.h"

/* In the order of memory: the weights of query, key and value follow one another, and so do their biases, so that they
 * can be one matrix and one vector. */
typedef enum da_parameter_id {
    DA_Q_WEIGHT,
    DA_K_WEIGHT,
    DA_V_WEIGHT,
    DA_Q_BIAS,
    DA_K_BIAS,
    DA_V_BIAS,
    DA_Q_LN_WEIGHT,
    DA_Q_LN_BIAS,
    DA_K_LN_WEIGHT,
    DA_K_LN_BIAS,
    DA_NORM_WEIGHT,
    DA_NORM_BIAS,
    DA_OUT_WEIGHT,
    DA_OUT_BIAS,
    DA_PARAMETER_IDS
} da_parameter_id;

/* One that exists. Of a sharded module's a rank holds some rows. */
typedef struct da_parameter_shape {
    da_parameter_id id;
    int rank;
    int64_t shape[2];              /* of what this rank holds */
    int64_t first_row, whole_rows; /* its rows are first_row .. first_row + shape[0] - 1 of whole_rows */
    int64_t offset, count;         /* elements */
} da_parameter_shape;

typedef struct da_parameter_table {
    size_t count;
    da_parameter_shape entries[DA_PARAMETER_IDS];
    int index[DA_PARAMETER_IDS]; /* of an id in entries; -1: does not exist */
    int64_t elements;            /* of all */
} da_parameter_table;

/* "q_proj.weight", ... */
const char *da_parameter_id_name(da_parameter_id id, da_parameter_names names);

/* The table of a validated configuration whose kv_heads are filled in: of all rows, or of those that one of `ranks` ranks
 * holds, each of which has the rows first_row = floor(rank rows / ranks) up to the next rank's. */
void da_parameter_table_make(da_parameter_table *out, const da_multihead_config *config, int rank, int ranks);

/* Address of a parameter in an array of all of them; NULL if it does not exist. */
void *da_parameter_address(const da_parameter_table *table, void *base, da_dtype dtype, da_parameter_id id);

/* The number of a parameter by its name. Errors: DA_ERROR_INVALID_ARGUMENT (no such name). */
da_status da_parameter_number(const da_parameter_table *table, const char *name, size_t *number);

/* A parameter as callers see it, by number or by name. */
da_status da_parameter_view(const da_parameter_table *table, void *base, da_dtype dtype, size_t index,
                            da_parameter *out);
da_status da_parameter_find(const da_parameter_table *table, void *base, da_dtype dtype, const char *name,
                            da_parameter *out);

/* Fills parameters as da_multihead_initialise says. */
void da_parameters_initialise(const da_parameter_table *table, void *base, const da_multihead_config *config,
                              uint64_t seed);

/* Normal numbers of mean 0, elements first .. first + count - 1: element e is a function of seed, stream and e. */
void da_draw_normal(da_dtype dtype, void *data, int64_t first, int64_t count, double deviation, uint64_t seed,
                    uint32_t stream);

/* Sets all to 0, and the norms' weights to 1. */
void da_parameters_reset(const da_parameter_table *table, void *base, da_dtype dtype);

#endif
