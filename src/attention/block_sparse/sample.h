/* Some queries of a head, and what part of each one's attention goes to each block of keys: exact, to the rounding of f32. */
#ifndef DA_BLOCK_SPARSE_SAMPLE_H
#define DA_BLOCK_SPARSE_SAMPLE_H

#include "attention/block_sparse/head.h"
#include "core/arena.h"

/* Queries of a head that are drawn for one purpose: one in each of as many equal parts of the sequence. Different purposes
 * draw independently, so that what is chosen by some is measured on others. */
typedef enum da_sample_purpose {
    DA_SAMPLE_CORRECT = 0,
    DA_SAMPLE_CALIBRATE = 1,
    DA_SAMPLE_REPORT = 2
} da_sample_purpose;

/* The number of queries for a purpose, at most: 16 to correct; else a 128th of the sequence, 32 to 128. */
int da_sample_size(da_sample_purpose purpose, int64_t n);

/* Keys that a sampled query sees by one pattern: those that it keeps in first..end-1. */
typedef struct da_sampled_range {
    int64_t first, end;
    int pattern;
} da_sampled_range;

typedef struct da_sampled_query {
    int64_t position;
    int range_count;
    da_sampled_range *ranges;
    double zero_keys; /* of zero padding */
    bool has_keys;
} da_sampled_query;

typedef struct da_sample {
    int capacity, count;
    da_sampled_query *queries; /* in ascending order of positions, for each purpose */
    int first_of[4];           /* of each purpose, and the end; purposes that are not asked for have none */
    float *mass;   /* [count][blocks]: part of the softmax; of each query the sum is 1, less what zero keys have.
                                  0 where has_keys is false */
    float *sums;   /* [capacity][blocks], while masses are computed */
    float *packed; /* queries as kernels take them */
    float log_2[DA_MAX_PATTERNS + 1]; /* of multiplicities */
} da_sample;

/* Memory for samples of a head for some purposes (bits 1 << purpose). */
void da_sample_lay_out(da_sample *sample, const da_sparse_head *head, unsigned purposes, da_arena *arena);

/* Draws queries by head, seed and purpose; then computes masses. scratch: da_sample_scratch() bytes for each thread. */
void da_sample_take(da_sample *sample, const da_sparse_head *head, unsigned purposes, char *scratch);
size_t da_sample_scratch(const da_sparse_head *head);

/* The same in steps: draws; then the masses of blocks of keys first..end-1, of all in any order, with scratch of the calling
 * thread that held zeros before its first use; and the end. */
void da_sample_begin(da_sample *sample, const da_sparse_head *head, unsigned purposes);
void da_sample_blocks(const da_sample *sample, const da_sparse_head *head, int64_t first, int64_t end, char *scratch);
void da_sample_end(da_sample *sample, const da_sparse_head *head);

/* What the tiles of a row hold of a sampled query's attention, zero keys (which no tile holds, and which stay) among it. */
double da_sample_kept(const da_sample *sample, const da_sparse_head *head, int index, const int32_t *columns,
                      int64_t column_count);

#endif
