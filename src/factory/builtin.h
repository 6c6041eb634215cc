/* The implementations that the library brings along. */
#ifndef DA_FACTORY_BUILTIN_H
#define DA_FACTORY_BUILTIN_H

#include "dilated_attention.h"

enum { DA_BUILT_IN_COUNT = 5 };

extern const da_implementation *const da_built_ins[DA_BUILT_IN_COUNT];

#endif
