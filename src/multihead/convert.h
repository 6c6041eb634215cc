/* Arrays from one data type to another. */
#ifndef DA_MULTIHEAD_CONVERT_H
#define DA_MULTIHEAD_CONVERT_H

#include "dilated_attention.h"

/* The type in which a data type is computed: f64 for f64, f32 for all others. */
static inline da_dtype da_real_of(da_dtype dtype) {
    return dtype == DA_F64 ? DA_F64 : DA_F32;
}

/* The address `elements` further on in an array. */
static inline void *da_elements_on(const void *array, int64_t elements, da_dtype dtype) {
    return (char *)array + (size_t)elements * da_dtype_size(dtype);
}

/* Converts `count` elements, `source_stride` and `target_stride` elements apart; rounds to nearest, to the half types
 * through f32. Addresses need no alignment. */
void da_convert(da_dtype source_dtype, const void *source, int64_t source_stride, da_dtype target_dtype, void *target,
                int64_t target_stride, int64_t count);

#endif
