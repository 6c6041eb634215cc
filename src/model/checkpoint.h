/* What a command asks of a checkpoint beyond dilated_attention_nn.h. */
#ifndef DA_MODEL_CHECKPOINT_H
#define DA_MODEL_CHECKPOINT_H

#include "dilated_attention_nn.h"

/* Whether a file describes a model and an optimiser of these configurations; the number of steps may differ. Errors:
 * DA_ERROR_INVALID_ARGUMENT (it does not: the message names the first difference), DA_ERROR_IO, DA_ERROR_FORMAT,
 * DA_ERROR_OUT_OF_MEMORY. */
da_status da_checkpoint_check_same(const char *path, const da_longnet *model, const da_adamw *adamw);

#endif
