/* Elements of every data type, converted without the library's help: a test of a conversion must not use it. */
#ifndef DA_TESTS_VALUES_H
#define DA_TESTS_VALUES_H

#include "dilated_attention.h"

/* Element `index` of an array, exactly. */
double value_load(const void *array, da_dtype dtype, int64_t index);

/* Stores a value that the data type can hold exactly, NaN and infinities included. */
void value_store(void *array, da_dtype dtype, int64_t index, double value);

/* Unit roundoff of the data type, and the smallest magnitude up to which its results may be off by that much itself. */
double value_roundoff(da_dtype dtype);
double value_tiny(da_dtype dtype);

#endif
