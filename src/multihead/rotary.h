/* Rotary position encodings, RoPE and xPos, of rows of heads; the formulas stand in dilated_attention_nn.h. */
#ifndef DA_MULTIHEAD_ROTARY_H
#define DA_MULTIHEAD_ROTARY_H

#include "multihead/tokens.h"

#define DA_MAX_PAIRS (DA_MAX_HEAD_DIM / 2)

typedef struct da_rotary {
    bool applies, scales; /* scales: xPos */
    da_rotary_layout layout;
    int64_t head_dim;
    da_tokens tokens;               /* that rows are */
    double frequency[DA_MAX_PAIRS]; /* of pair p */
    double growth[DA_MAX_PAIRS];    /* natural logarithm of s per position */
} da_rotary;

/* config is validated. What `tokens` points to must stay as long as it is used. */
void da_rotary_begin(da_rotary *out, const da_multihead_config *config, const da_tokens *tokens);

/* Largest n whose factors stay within what the header promises for the data type; INT64_MAX without xPos. */
int64_t da_rotary_longest(const da_multihead_config *config);

/* Heads of query and key in one row: `query` holds query_heads of them, one after the other, `key` key_heads. */
typedef struct da_rotary_rows {
    void *query, *key;
    int64_t ld; /* elements from one row to the next, of both */
    int64_t query_heads, key_heads;
} da_rotary_rows;

/* Encodes in place the rows first, first + 1, ... among those of all batch elements. With
 * `backward` gradients of the encoded become gradients of what was encoded. */
void da_rotary_apply(da_dtype real, const da_rotary *rotary, bool backward, int64_t first, int64_t count,
                     const da_rotary_rows *rows);

#endif
