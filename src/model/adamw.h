/* The optimiser behind a handle. */
#ifndef DA_MODEL_ADAMW_H
#define DA_MODEL_ADAMW_H

#include "model/model.h"

struct da_adamw {
    da_longnet *model;
    da_adamw_config config;
    int64_t steps;
    int64_t *offsets;     /* of parameters in the two arrays */
    void *first, *second; /* moments, in the order of parameters */
    double *squares;      /* of pieces of gradients */
    int64_t elements, pieces;
};

/* Moments of a parameter. */
static inline void *da_adamw_moment(const da_adamw *adamw, void *moments, size_t parameter) {
    return da_elements_on(moments, adamw->offsets[parameter], adamw->model->real);
}

#endif
