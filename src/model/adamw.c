/* AdamW; the formulas stand in dilated_attention_nn.h. Parameters are cut into pieces that threads take; the norm of the
 * gradients is the sum of the pieces' sums in their order. */
#include "model/adamw.h"

#include <math.h>
#include <string.h>

#include "config/validation.h"
#include "core/parallel.h"

#define PIECE 16384

typedef struct coefficients {
    double beta1, beta2, eps, rate, decay, clip; /* clip: factor of gradients */
    double correction1, correction2;             /* 1 - beta^t */
} coefficients;

#define REAL float
#define SQRT sqrtf
#define NAME(name) name##_f32
#include "model/adamw.inc.h"
#undef REAL
#undef SQRT
#undef NAME

#define REAL double
#define SQRT sqrt
#define NAME(name) name##_f64
#include "model/adamw.inc.h"

/* ---- configuration ----------------------------------------------------------------------------------------------- */

void da_adamw_config_init(da_adamw_config *config) {
    if (config) {
        *config = (da_adamw_config){
            .size = sizeof *config, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    }
}

static da_status import_config(const da_adamw_config *theirs, da_adamw_config *ours) {
    da_status status = da_copy_sized(ours, sizeof *ours, theirs, "config");
    if (status != DA_OK) {
        return status;
    }
    const struct {
        const char *name;
        double value;
        bool fits;
        const char *allowed;
    } fields[] = {
        {"beta1", ours->beta1, ours->beta1 >= 0 && ours->beta1 < 1, "0 or more and below 1"},
        {"beta2", ours->beta2, ours->beta2 >= 0 && ours->beta2 < 1, "0 or more and below 1"},
        {"eps", ours->eps, ours->eps > 0 && isfinite(ours->eps), "above 0 and finite"},
        {"weight_decay", ours->weight_decay, ours->weight_decay >= 0 && isfinite(ours->weight_decay),
         "0 or more and finite"},
        {"clip", ours->clip, ours->clip >= 0 && isfinite(ours->clip), "0 or more and finite"},
    };
    for (size_t k = 0; k < sizeof fields / sizeof *fields; k++) {
        if (!fields[k].fits) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %g; allowed: %s", fields[k].name, fields[k].value,
                             fields[k].allowed);
        }
    }
    return DA_OK;
}

/* ---- creation ---------------------------------------------------------------------------------------------------- */

static int64_t pieces_of(int64_t count) {
    return (count + PIECE - 1) / PIECE;
}

static da_status fill(da_adamw *adamw) {
    const da_longnet *model = adamw->model;
    size_t count = model->table.count, size = da_dtype_size(model->real);
    adamw->offsets = da_allocate(model->allocator, count, sizeof *adamw->offsets);
    if (!adamw->offsets) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    for (size_t k = 0; k < count; k++) {
        adamw->offsets[k] = adamw->elements;
        adamw->elements += model->table.entries[k].count;
        adamw->pieces += pieces_of(model->table.entries[k].count);
    }
    adamw->first = da_allocate(model->allocator, (size_t)adamw->elements, size);
    adamw->second = adamw->first ? da_allocate(model->allocator, (size_t)adamw->elements, size) : NULL;
    adamw->squares =
        adamw->second ? da_allocate(model->allocator, (size_t)adamw->pieces, sizeof *adamw->squares) : NULL;
    if (!adamw->squares) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(adamw->first, 0, (size_t)adamw->elements * size);
    memset(adamw->second, 0, (size_t)adamw->elements * size);
    return DA_OK;
}

da_status da_adamw_create(da_longnet *model, const da_adamw_config *config, da_adamw **out) {
    da_adamw_config ours;
    if (!out) {
        return da_model_report_null("out", "a place for the optimiser");
    }
    *out = NULL;
    da_status status =
        model ? import_config(config, &ours) : da_model_report_null("model", "what da_longnet_create made");
    if (status != DA_OK) {
        return status;
    }
    da_adamw *adamw = da_allocate(model->allocator, 1, sizeof *adamw);
    if (!adamw) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *adamw = (da_adamw){.model = model, .config = ours};
    status = fill(adamw);
    if (status != DA_OK) {
        da_adamw_free(adamw);
        return status;
    }
    *out = adamw;
    return DA_OK;
}

void da_adamw_free(da_adamw *adamw) {
    if (adamw) {
        const da_allocator *allocator = adamw->model->allocator;
        da_release(allocator, adamw->offsets);
        da_release(allocator, adamw->first);
        da_release(allocator, adamw->second);
        da_release(allocator, adamw->squares);
        da_release(allocator, adamw);
    }
}

int64_t da_adamw_steps(const da_adamw *adamw) {
    return adamw ? adamw->steps : 0;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

typedef struct step_work {
    const da_adamw *adamw;
    da_longnet_gradients *gradients;
    coefficients with;
} step_work;

/* A piece of one parameter. */
typedef struct piece {
    size_t parameter;
    int64_t first, count;
} piece;

static piece find_piece(const da_adamw *adamw, int64_t index) {
    const da_model_table *table = &adamw->model->table;
    size_t k = 0;
    for (; index >= pieces_of(table->entries[k].count); k++) {
        index -= pieces_of(table->entries[k].count);
    }
    int64_t first = index * PIECE, rest = table->entries[k].count - first;
    return (piece){k, first, rest < PIECE ? rest : PIECE};
}

static const void *gradient_of(const step_work *work, const piece *p) {
    da_parameter gradient;
    (void)da_longnet_gradient_at(work->gradients, p->parameter, &gradient); /* the number is in range */
    return da_elements_on(gradient.data, p->first, work->adamw->model->real);
}

static void square_piece(int64_t index, int thread, void *user) {
    const step_work *work = user;
    piece p = find_piece(work->adamw, index);
    const void *gradient = gradient_of(work, &p);
    work->adamw->squares[index] =
        work->adamw->model->real == DA_F64 ? squares_f64(p.count, gradient) : squares_f32(p.count, gradient);
}

static void update_piece(int64_t index, int thread, void *user) {
    const step_work *work = user;
    const da_adamw *adamw = work->adamw;
    da_dtype real = adamw->model->real;
    piece p = find_piece(adamw, index);
    da_parameter parameter;
    (void)da_longnet_parameter_at(adamw->model, p.parameter, &parameter);
    coefficients with = work->with;
    with.decay = parameter.rank == 2 ? with.decay : 0;
    const void *gradient = gradient_of(work, &p);
    void *data = da_elements_on(parameter.data, p.first, real);
    void *first = da_elements_on(da_adamw_moment(adamw, adamw->first, p.parameter), p.first, real);
    void *second = da_elements_on(da_adamw_moment(adamw, adamw->second, p.parameter), p.first, real);
    if (real == DA_F64) {
        update_f64(&with, p.count, gradient, data, first, second);
    } else {
        update_f32(&with, p.count, gradient, data, first, second);
    }
}

static double norm_of(step_work *work) {
    const da_adamw *adamw = work->adamw;
    double sum = 0;
    da_parallel_for(adamw->model->threads, adamw->pieces, square_piece, work);
    for (int64_t k = 0; k < adamw->pieces; k++) {
        sum += adamw->squares[k];
    }
    return sqrt(sum);
}

static da_status check_step(const da_adamw *adamw, const da_longnet_gradients *gradients, double rate) {
    if (!adamw || !gradients) {
        return da_model_report_null(adamw ? "gradients" : "adamw", "what its _create function made");
    }
    if (gradients->model != adamw->model) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "gradients are another model's; allowed: those of the optimiser's");
    }
    if (!(rate >= 0) || !isfinite(rate)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "rate is %g; allowed: 0 or more and finite", rate);
    }
    return DA_OK;
}

da_status da_adamw_step(da_adamw *adamw, const da_longnet_gradients *gradients, double rate, double *norm) {
    da_status status = check_step(adamw, gradients, rate);
    if (status != DA_OK) {
        return status;
    }
    const da_adamw_config *config = &adamw->config;
    step_work work = {.adamw = adamw, .gradients = (da_longnet_gradients *)gradients}; /* only read */
    double of_all = norm_of(&work), t = (double)(adamw->steps + 1);
    if (!isfinite(of_all)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "the norm of gradients is %g; allowed: finite", of_all);
    }
    work.with = (coefficients){
        .beta1 = config->beta1,
        .beta2 = config->beta2,
        .eps = config->eps,
        .rate = rate,
        .decay = config->weight_decay,
        .clip = config->clip > 0 && of_all > config->clip ? config->clip / of_all : 1,
        .correction1 = 1 - pow(config->beta1, t),
        .correction2 = 1 - pow(config->beta2, t),
    };
    da_parallel_for(adamw->model->threads, adamw->pieces, update_piece, &work);
    adamw->steps++;
    if (norm) {
        *norm = of_all;
    }
    return DA_OK;
}
