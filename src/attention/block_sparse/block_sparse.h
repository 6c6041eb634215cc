#ifndef DA_ATTENTION_BLOCK_SPARSE_H
#define DA_ATTENTION_BLOCK_SPARSE_H

#include "dilated_attention.h"

extern const da_implementation da_block_sparse_implementation;

#endif
