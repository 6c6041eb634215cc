/* The generated cases: problems with their exact results, written by ../compare/generate_cases.py.
 *
 * Everything is little-endian and every part begins at a multiple of 8 bytes:
 *
 *   char magic[8] = "DACASES2"; int64 case_count; then case_count records:
 *     int64 bytes of the record, this field included
 *     int64 value_type (a da_dtype), batch, n, heads, kv_heads, head_dim, pattern_count,
 *           causal, window (-1: none), mixing, offset_rule, tail_rule, overlap (the library's enumerations),
 *           scale_is_set, has_lengths, has_mask, shared_kv,
 *           tile_block (0: no tiles), tile_batch, tile_heads, row_count
 *     double scale; char name[40]
 *     int64 segment_lengths[pattern_count], dilation_rates[pattern_count]
 *     int64 key_lengths[batch]        if has_lengths
 *     uint8 key_mask[batch * n]       if has_mask, filled to a multiple of 8
 *     uint8 kept[tile_batch * tile_heads * blocks * blocks]  if tile_block, blocks = ceil(n / tile_block), filled to 8
 *     query, key, value               dense (batch, n, heads or kv_heads, head_dim) in the value type, each filled to 8
 *     row_count rows: int64 b, i, h, counted, distinct, positions, squares, terms;
 *                     double largest_score, mean_score, spread, mean_value, lse, out[head_dim]
 */
#ifndef DA_TESTS_CASE_FILE_H
#define DA_TESTS_CASE_FILE_H

#include "dilated_attention.h"

/* One query with its exact result. The four figures after `terms` are what ../compare/bounds.h makes a bound of. */
typedef struct case_row {
    int64_t b, i, h;
    int64_t counted;      /* sum of the keys' multiplicities, padding apart */
    int64_t distinct;     /* number of keys, padding apart */
    int64_t positions;    /* sum of multiplicity * (j + 1) */
    int64_t squares;      /* sum of multiplicity * (j + 1)^2 */
    int64_t terms;        /* keys and zero keys that enter the softmax */
    double largest_score; /* max over keys j of score_j = |scale| sum_c |q_c| |k_jc| */
    double mean_score;    /* sum_j p_j score_j, p the softmax's weights */
    double spread;        /* max over channels c of sum_j p_j score_j |v_jc - out_c| */
    double mean_value;    /* max over channels c of sum_j p_j |v_jc| */
    double lse;
    double out[];
} case_row;

/* A case; pointers lead into the file's memory. */
typedef struct test_case {
    const char *name;
    da_dtype dtype;
    int64_t batch, n, heads, kv_heads, head_dim;
    da_attention_config config;
    const int64_t *key_lengths; /* or NULL */
    const uint8_t *key_mask;    /* or NULL */
    bool shared_kv;             /* all batch rows have the same keys and values */
    int64_t tile_block;         /* 0: all pairs count; otherwise those of the tiles kept do */
    int64_t tile_batch, tile_heads;
    const uint8_t *kept; /* (tile_batch, tile_heads, blocks, blocks) */
    const void *query, *key, *value;
    int64_t row_count;
    const unsigned char *rows;
} test_case;

typedef struct case_file {
    unsigned char *memory;
    int64_t count;
    test_case *cases;
} case_file;

/* Reads the file that the environment variable names, or else the one given. Ends the program with a message if it
 * cannot: without cases nothing is tested. */
case_file case_file_open_as(const char *variable, const char *otherwise);

/* The cases of forward passes: DA_CASES_FILE, or the file that the build made. */
case_file case_file_open(void);
void case_file_close(case_file *file);

const case_row *case_file_row(const test_case *one, int64_t index);

/* The next part of a record, which *at is moved beyond; parts are filled to 8 bytes. */
const void *case_file_take(const unsigned char **at, int64_t bytes);

#endif
