/* What ranks need of one another, counted and not computed: rows of messages, as attention/ranks/parcel.c finds them, and
 * pairs of queries and keys. */
#ifndef DA_PLANNER_TRAFFIC_H
#define DA_PLANNER_TRAFFIC_H

#include "pattern/layout.h"
#include "pattern/pattern.h"

/* What travels: keys and values to queries, or, for the gradients of keys and values, queries to keys. */
typedef enum da_travellers { DA_TRAVEL_KEYS = 0, DA_TRAVEL_QUERIES = 1 } da_travellers;

/* Heads of tensors that are all alike: for keys, the patterns of all query heads that read them. */
typedef struct da_head_class {
    da_head_patterns patterns; /* count 0: more than there is room for, and rows are marked one by one */
    int64_t first_head;        /* of the query, of the first of these heads */
    int64_t heads;
} da_head_class;

typedef struct da_traffic {
    const da_allocator *allocator;
    const da_attention_config *config;
    const da_problem *problem;
    int class_count[2]; /* by da_travellers; the latter's are the query's heads one by one */
    da_head_class *classes[2];
    int *class_of_head; /* of the query */
    double *whole;      /* of each class of the query's heads: pairs of the whole sequence; below 0: not counted yet */
    uint64_t *bits;     /* for marks */
    size_t bytes;       /* of memory, all of it */
} da_traffic;

/* Messages of a rank that are under way together. */
typedef struct da_exchange {
    int64_t messages_in, messages_out;
    int64_t rows_in, rows_out; /* of head_dim numbers, over batch elements and heads */
    double bytes_in, bytes_out;
} da_exchange;

/* The configuration and the problem, n known and kv_heads put in, must outlive it; longest: rows of the longest part.
 * Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_traffic_create(const da_allocator *allocator, const da_attention_config *config, const da_problem *problem,
                            int64_t longest, da_traffic *out);
void da_traffic_free(da_traffic *traffic);

/* Rows of each tensor, over all batch elements and heads, that the rank which holds `columns` sends to the one that holds
 * `rows`. list_bytes: NULL, or for the bytes of memory by which each of the two knows which rows those are. */
int64_t da_traffic_rows(const da_traffic *traffic, da_travellers travellers, const da_part *rows,
                        const da_part *columns, double *list_bytes);

/* The messages of a rank in one direction of a pass: all that it receives of the others, and sends them. */
da_exchange da_traffic_exchange(const da_traffic *traffic, da_travellers travellers, const da_layout *layout, int rank);

/* Bytes of a message of `rows` rows of each of two tensors, as a parcel has them; 0: there is none. */
double da_traffic_message_bytes(const da_traffic *traffic, da_travellers travellers, int64_t rows);

/* Adds a message that comes and one that goes, each if it has rows. */
void da_traffic_add_message(const da_traffic *traffic, da_travellers travellers, int64_t rows_in, int64_t rows_out,
                            da_exchange *exchange);

/* Distinct pairs over all batch elements and heads; `counted` as da_pairs_count has it. */
double da_traffic_pairs(const da_traffic *traffic, const da_part *queries, const da_part *keys);

/* The same of the whole sequence, for the query heads first..end-1. Each class of heads is counted once. */
double da_traffic_pairs_of_heads(da_traffic *traffic, int64_t first, int64_t end);

/* *share: what the pairs above are to be multiplied by, because pairs that several of many patterns hold are not told
 * apart by da_pairs_count. Errors: those of da_pattern_cost. */
da_status da_traffic_distinct_share(const da_traffic *traffic, double *share);

#endif
