#ifndef DA_ATTENTION_IMPROVED_H
#define DA_ATTENTION_IMPROVED_H

#include "dilated_attention.h"

extern const da_implementation da_improved_implementation;

#endif
