/* Checks that creation, the forward call and the planning calls share. Every one sets a message that names the argument,
 * its value and what is allowed. */
#ifndef DA_CONFIG_VALIDATION_H
#define DA_CONFIG_VALIDATION_H

#include "dilated_attention.h"

/* Copies a caller's sized struct over one of ours that already holds defaults; refuses a size that no version had: below
 * our_size, the smallest so far, or beyond ours by more than a later version could add. */
da_status da_copy_sized(void *ours, size_t our_size, const void *theirs, const char *name);

/* The other direction: a caller's struct that receives a result must be large enough for it. */
da_status da_check_result(const void *theirs, size_t our_size, const char *name);

/* A validated copy of a configuration (or problem) that may come from an older or newer caller. */
da_status da_attention_config_import(const da_attention_config *theirs, da_attention_config *ours);
da_status da_multihead_config_import(const da_multihead_config *theirs, da_multihead_config *ours);
da_status da_problem_import(const da_problem *theirs, da_problem *ours); /* n == 0 is allowed; kv_heads is put in */

/* An enumeration's value: `name` is what its _name function returns. */
da_status da_check_enum(const char *argument, int value, const char *name);

/* Tokens in a block of a tile. */
da_status da_check_tile_block(const char *argument, int64_t value);

/* The DA_FEATURE_* bits that a configuration needs; those that only tensors show (grouped queries, padding, logsumexp)
 * are not among them. */
uint32_t da_attention_config_features(const da_attention_config *config);

/* True if a tuning leaves all to the library. */
static inline bool da_tuning_is_open(const da_tuning *tuning) {
    return tuning->unit == 0 && tuning->block_keys == 0 && tuning->threads == 0;
}

#endif
