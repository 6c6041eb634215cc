/* Checks that creation, the forward call and the planning calls share. Every one sets a message that names the argument,
 * its value and what is allowed. */
#ifndef DA_CONFIG_VALIDATION_H
#define DA_CONFIG_VALIDATION_H

#include "dilated_attention.h"

/* Copies a caller's sized struct over one of ours that already holds defaults; refuses a size that no version had. */
da_status da_copy_sized(void *ours, size_t our_size, const void *theirs, size_t their_size, size_t smallest,
                        const char *type_name);

/* A validated copy of a configuration (or problem) that may come from an older or newer caller. */
da_status da_attention_config_import(const da_attention_config *theirs, da_attention_config *ours);
da_status da_problem_import(const da_problem *theirs, da_problem *ours); /* n == 0 is allowed here */

/* The DA_FEATURE_* bits that a configuration needs; those that only tensors show (grouped queries, padding, logsumexp)
 * are not among them. */
uint32_t da_attention_config_features(const da_attention_config *config);

#endif
