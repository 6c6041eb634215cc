#ifndef DA_ATTENTION_DISTRIBUTED_H
#define DA_ATTENTION_DISTRIBUTED_H

#include "dilated_attention.h"

extern const da_implementation da_distributed_implementation;

#endif
