/* A text as training data: bytes of a file, its last part kept for validation. Which windows a step sees is a function of
 * seed and step alone, so that a training goes on where it stopped. */
#ifndef DA_MODEL_TEXT_DATA_H
#define DA_MODEL_TEXT_DATA_H

#include "core/mapped_file.h"

typedef struct da_text_data {
    da_mapping mapping;
    const unsigned char *bytes;
    int64_t training, validation; /* bytes of each part, in this order */
} da_text_data;

/* Maps a file. validation_part in [0, 1): what is kept. n: tokens of a window; there must be windows of n + 1 bytes in
 * the training part, and 2 bytes in the other if it is to be there. Errors: DA_ERROR_IO, DA_ERROR_FORMAT, and
 * DA_ERROR_INVALID_ARGUMENT (too short). */
da_status da_text_data_open(const char *path, double validation_part, int64_t n, da_text_data *out);
void da_text_data_close(da_text_data *text);

/* FNV-1a (64 bits) of all bytes: to notice that a training goes on with another text. */
uint64_t da_text_data_hash(const da_text_data *text);

/* Windows of a step: tokens and targets (batch, n), the targets one byte further on. */
void da_text_data_sample(const da_text_data *text, uint64_t seed, int64_t step, int64_t batch, int64_t n,
                         int32_t *tokens, int32_t *targets);

/* The index-th window of the validation part, those of n tokens one after the other; returns its length: n, less at the
 * end, 0 beyond. */
int64_t da_text_data_validation(const da_text_data *text, int64_t index, int64_t n, int32_t *tokens, int32_t *targets);

#endif
