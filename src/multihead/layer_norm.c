#include "multihead/layer_norm.h"

#include <math.h>

#define LANES 16

#define REAL float
#define SQRT sqrtf
#define NAME(name) name##_f32
#include "multihead/layer_norm.inc.h"
#undef REAL
#undef SQRT
#undef NAME

#define REAL double
#define SQRT sqrt
#define NAME(name) name##_f64
#include "multihead/layer_norm.inc.h"

void da_layer_norm_forward(da_dtype real, const da_layer_norm *norm, int64_t rows, da_matrix x, void *y, int64_t ldy) {
    if (real == DA_F64) {
        forward_f64(norm, rows, x.data, x.ld, y, ldy);
    } else {
        forward_f32(norm, rows, x.data, x.ld, y, ldy);
    }
}

void da_layer_norm_backward(da_dtype real, const da_layer_norm *norm, int64_t rows, da_matrix x, da_matrix grad_y,
                            void *grad_x, int64_t ldg, void *grad_weight, void *grad_bias) {
    if (real == DA_F64) {
        backward_f64(norm, rows, x.data, x.ld, grad_y.data, grad_y.ld, grad_x, ldg, grad_weight, grad_bias);
    } else {
        backward_f32(norm, rows, x.data, x.ld, grad_y.data, grad_y.ld, grad_x, ldg, grad_weight, grad_bias);
    }
}
