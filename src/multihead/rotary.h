/* Rotary position encodings, RoPE and xPos, of rows of heads; the formulas stand in dilated_attention_nn.h. */
#ifndef DA_MULTIHEAD_ROTARY_H
#define DA_MULTIHEAD_ROTARY_H

#include "dilated_attention.h"

#define DA_MAX_PAIRS (DA_MAX_HEAD_DIM / 2)

typedef struct da_rotary {
    bool applies, scales; /* scales: xPos */
    da_rotary_layout layout;
    int64_t head_dim, n;
    double frequency[DA_MAX_PAIRS]; /* of pair p */
    double growth[DA_MAX_PAIRS];    /* natural logarithm of s per position */
} da_rotary;

/* config is validated. Sequences have n tokens. */
void da_rotary_begin(da_rotary *out, const da_multihead_config *config, int64_t n);

/* Largest n whose factors stay within what the header promises for the data type; INT64_MAX without xPos. */
int64_t da_rotary_longest(const da_multihead_config *config);

/* Heads of query and key in one row: `query` holds query_heads of them, one after the other, `key` key_heads. */
typedef struct da_rotary_rows {
    void *query, *key;
    int64_t ld; /* elements from one row to the next, of both */
    int64_t query_heads, key_heads;
} da_rotary_rows;

/* Encodes in place rows whose number among all tokens is first, first + 1, ...: row r is position r mod n. With
 * `backward` gradients of the encoded become gradients of what was encoded. */
void da_rotary_apply(da_dtype real, const da_rotary *rotary, bool backward, int64_t first, int64_t count,
                     const da_rotary_rows *rows);

#endif
