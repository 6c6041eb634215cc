/* The checks of a backward call. The options are checked by da_attention_backward, before anything is written. */
#include <inttypes.h>

#include "config/validation.h"
#include "core/tensor.h"
#include "multihead/backward.h"
#include "multihead/convert.h"

static const char *const input_names[3] = {"query", "key", "value"};
static const char *const gradient_names[3] = {"grad_query", "grad_key", "grad_value"};

static da_status check_saved(const da_multihead *multihead, const da_multihead_saved *saved,
                             const da_multihead_gradients *gradients, const da_tensor *query) {
    if (!saved) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "saved is NULL; allowed: what da_multihead_forward_training made");
    }
    if (saved->multihead != multihead) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "saved belongs to another module; allowed: one of this module");
    }
    if (saved->batch != query->shape[0] || saved->n != query->shape[1]) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "saved is of batch %" PRId64 " and n %" PRId64 "; allowed: query's, %" PRId64 " and %" PRId64,
                         saved->batch, saved->n, query->shape[0], query->shape[1]);
    }
    if (gradients && gradients->multihead != multihead) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "gradients belong to another module; allowed: those of this module");
    }
    return DA_OK;
}

/* Where the gradient of each part goes. */
static da_status choose_targets(const da_multihead_backward_tensors *tensors, da_backward_work *work) {
    const da_tensor *given[3] = {tensors->query, tensors->key, tensors->value};
    const da_tensor *targets[3] = {tensors->grad_query, tensors->grad_key, tensors->grad_value};
    for (int part = 0; part < 3; part++) {
        if (!given[part] && targets[part]) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %p though %s is NULL; allowed: NULL",
                             gradient_names[part], (const void *)targets[part], input_names[part]);
        }
        work->grad_inputs[part] = given[part] ? targets[part] : work->grad_inputs[part - 1];
        work->slot_of[part] = part;
        for (int earlier = part - 1; earlier >= 0 && work->grad_inputs[part]; earlier--) {
            if (work->grad_inputs[earlier] && da_rows_same(work->grad_inputs[earlier], work->grad_inputs[part])) {
                work->slot_of[part] = work->slot_of[earlier];
            }
        }
        work->last_of[work->slot_of[part]] = part;
    }
    return DA_OK;
}

static da_status report_meeting(const da_tensor *tensor, const char *name, const char *other) {
    return da_report(DA_ERROR_INVALID_ARGUMENT,
                     "%s.data is %p, which meets %s's memory; allowed: memory apart from every other tensor", name,
                     tensor->data, other);
}

static da_status check_target(const da_backward_work *work, int part) {
    const da_tensor *target = work->grad_inputs[part];
    const char *name = gradient_names[part];
    da_status status = da_module_check_sequence(work->multihead, target, name, work->inputs.tensors[0]);
    if (status == DA_OK) {
        status = da_tensor_check_output(target, name);
    }
    for (int other = 0; other < 3 && status == DA_OK; other++) {
        if (da_tensors_meet(target, work->inputs.tensors[other])) {
            return report_meeting(target, name, input_names[other]);
        }
        if (other < part && work->grad_inputs[other] && work->slot_of[other] != work->slot_of[part] &&
            da_tensors_meet(target, work->grad_inputs[other])) {
            return report_meeting(target, name, gradient_names[other]);
        }
    }
    if (status == DA_OK && da_tensors_meet(target, work->grad_out)) {
        return report_meeting(target, name, "grad_out");
    }
    return status;
}

/* The options, as the checks of da_attention_backward leave them. */
static da_status import_options(const da_call_options *theirs, int64_t n, da_call_options *ours) {
    da_call_options_init(ours);
    da_status status = theirs ? da_copy_sized(ours, sizeof *ours, theirs, "options") : DA_OK;
    if (status == DA_OK && ours->key_mask && ours->key_mask_stride[0] == 0 && ours->key_mask_stride[1] == 0) {
        ours->key_mask_stride[0] = n;
        ours->key_mask_stride[1] = 1;
    }
    return status;
}

da_status da_backward_prepare(const da_multihead *multihead, const da_multihead_saved *saved,
                              const da_multihead_backward_tensors *tensors, const da_call_options *options,
                              da_backward_work *out) {
    da_multihead_backward_tensors ours;
    *out = (da_backward_work){.multihead = multihead, .saved = saved};
    da_status status = da_copy_sized(&ours, sizeof ours, tensors, "tensors");
    if (status == DA_OK) {
        status = da_module_check(multihead, ours.query, ours.key, ours.value, ours.grad_out, "grad_out", &out->inputs);
    }
    if (status == DA_OK) {
        status = check_saved(multihead, saved, ours.gradients, ours.query);
    }
    if (status == DA_OK) {
        status = choose_targets(&ours, out);
    }
    if (status != DA_OK) {
        return status;
    }
    out->grad_out = ours.grad_out;
    out->gradients = ours.gradients;
    out->real = da_real_of(multihead->config.dtype);
    out->rows = saved->batch * saved->n;
    out->threads = multihead->threads;
    for (int part = 0; part < 3 && status == DA_OK; part++) {
        status = out->grad_inputs[part] ? check_target(out, part) : DA_OK;
    }
    return status == DA_OK ? import_options(options, saved->n, &out->options) : status;
}
