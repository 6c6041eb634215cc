#ifndef DA_ATTENTION_RING_H
#define DA_ATTENTION_RING_H

#include "dilated_attention.h"

extern const da_implementation da_ring_implementation;

#endif
