#ifndef DA_ATTENTION_STANDARD_H
#define DA_ATTENTION_STANDARD_H

#include "dilated_attention.h"

extern const da_implementation da_standard_implementation;

#endif
