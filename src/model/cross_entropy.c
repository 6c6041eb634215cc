/* Exponentials are added in double: of 256 words or of 100,000, the loss is as exact as its logits. */
#include "model/cross_entropy.h"

#include <math.h>

#define REAL float
#define EXP expf
#define NAME(name) name##_f32
#include "model/cross_entropy.inc.h"
#undef REAL
#undef EXP
#undef NAME

#define REAL double
#define EXP exp
#define NAME(name) name##_f64
#include "model/cross_entropy.inc.h"

double da_cross_entropy(da_dtype real, int64_t rows, int64_t words, const void *logits, const int32_t *targets) {
    return real == DA_F64 ? loss_f64(rows, words, logits, targets) : loss_f32(rows, words, logits, targets);
}

double da_cross_entropy_gradient(da_dtype real, int64_t rows, int64_t words, double scale, void *logits,
                                 const int32_t *targets) {
    return real == DA_F64 ? gradient_f64(rows, words, scale, logits, targets)
                          : gradient_f32(rows, words, scale, logits, targets);
}
