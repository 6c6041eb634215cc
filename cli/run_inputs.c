/* The inputs of `run`: which files, and whether they fit together. */
#include <inttypes.h>

#include "output.h"
#include "run.h"

int run_check_paths(const run_options *options) {
    const char *required[][2] = {
        {"--q", options->q}, {"--k", options->k}, {"--v", options->v}, {"--out", options->out}};
    for (size_t i = 0; i < CLI_COUNT(required); i++) {
        if (required[i][1] == NULL) {
            return cli_usage(RUN, "%s: missing; give a .npy or .safetensors file", required[i][0]);
        }
    }
    const char *outputs[][2] = {{"--out", options->out}, {"--lse", options->lse}};
    const char *others[][2] = {
        {"--q", options->q}, {"--k", options->k}, {"--v", options->v}, {"--key-mask", options->key_mask}};
    for (size_t i = 0; i < CLI_COUNT(outputs); i++) {
        for (size_t j = 0; j < CLI_COUNT(others); j++) {
            if (outputs[i][1] != NULL && others[j][1] != NULL && same_file(outputs[i][1], others[j][1])) {
                return cli_usage(RUN, "%s: \"%s\" is the file of %s; an output may not replace an input", outputs[i][0],
                                 outputs[i][1], others[j][0]);
            }
        }
    }
    if (options->lse != NULL && same_file(options->out, options->lse)) {
        return cli_usage(RUN, "--lse: \"%s\" is the file of --out; give another", options->lse);
    }
    return CLI_CONTINUE;
}

static int check_lengths(const run_options *options, const run_state *state) {
    const cli_list *lengths = &options->lengths;
    int64_t batch = state->problem.batch, n = state->problem.n;
    if (lengths->count != 0 && (int64_t)lengths->count != batch) {
        return cli_usage(RUN, "--lengths: gives %zu lengths; the batch of --q is %" PRId64, lengths->count, batch);
    }
    for (size_t i = 0; i < lengths->count; i++) {
        if (lengths->values[i] > n) {
            return cli_usage(RUN, "--lengths: %" PRId64 " is not from 0 to %" PRId64 ", the tokens of --q",
                             lengths->values[i], n);
        }
    }
    return CLI_CONTINUE;
}

/* Key and value must be as the query, their heads apart, which must divide the query's. */
static int check_shape(const loaded_tensor *q, const loaded_tensor *other) {
    static const char *const axes[] = {"batch", "n", "heads", "head dim"};
    for (int axis = 0; axis < 4; axis++) {
        int64_t wanted = q->view.shape[axis], found = other->view.shape[axis];
        if (axis == 2 ? wanted % found != 0 : wanted != found) {
            return cli_fail(RUN, "%s: %s: %s is %" PRId64 ", but that of --q is %" PRId64 "; allowed: %s",
                            other->option, other->path, axes[axis], found, wanted,
                            axis == 2 ? "a divisor of it (grouped queries)" : "the same");
        }
    }
    return CLI_CONTINUE;
}

static int check_inputs(const run_state *state) {
    const loaded_tensor *others[] = {&state->k, &state->v};
    if (state->q.view.shape[3] > DA_MAX_HEAD_DIM) {
        return cli_fail(RUN, "--q: %s: head dim is %" PRId64 "; allowed: 1 to %d", state->q.path,
                        state->q.view.shape[3], DA_MAX_HEAD_DIM);
    }
    for (size_t i = 0; i < CLI_COUNT(others); i++) {
        int code = check_shape(&state->q, others[i]);
        if (code != CLI_CONTINUE) {
            return code;
        }
        if (state->config.dtype == DA_DTYPE_ANY && others[i]->view.dtype != state->q.view.dtype) {
            return cli_fail(RUN, "%s: %s: holds %s, but --q holds %s; allowed: one type, or --dtype to convert to one",
                            others[i]->option, others[i]->path, da_dtype_name(others[i]->view.dtype),
                            da_dtype_name(state->q.view.dtype));
        }
    }
    if (state->k.view.shape[2] != state->v.view.shape[2]) {
        return cli_fail(RUN, "--v: %s: heads is %" PRId64 ", but that of --k is %" PRId64 "; allowed: the same",
                        state->v.path, state->v.view.shape[2], state->k.view.shape[2]);
    }
    return CLI_CONTINUE;
}

static void note_problem(run_state *state) {
    const int64_t *shape = state->q.shape;
    da_problem_init(&state->problem);
    state->problem.batch = shape[0];
    state->problem.n = shape[1];
    state->problem.heads = shape[2];
    state->problem.kv_heads = state->k.shape[2];
    state->problem.head_dim = shape[3];
    state->problem.dtype = state->config.dtype != DA_DTYPE_ANY ? state->config.dtype : state->q.view.dtype;
}

/* Of several ranks, this one's rows alone. */
static int take_rows(run_state *state) {
    loaded_tensor *tensors[] = {&state->q, &state->k, &state->v};
    int threads = da_context_threads(state->context);
    int code = ranks_divide(state->ranks, &state->config, state->problem.n);
    if (code != CLI_CONTINUE || state->ranks->part == NULL) {
        return code;
    }
    for (size_t i = 0; i < CLI_COUNT(tensors) && code == CLI_CONTINUE; i++) {
        code = loaded_take(tensors[i], RUN, state->ranks->part, threads);
    }
    return code == CLI_CONTINUE && state->mask.data != NULL
               ? mask_take(&state->mask, RUN, state->ranks->part, state->problem.batch)
               : code;
}

static int open_inputs(const run_options *options, run_state *state) {
    const char *names[] = {"--q", "--k", "--v"}, *paths[] = {options->q, options->k, options->v};
    loaded_tensor *tensors[] = {&state->q, &state->k, &state->v};
    for (size_t i = 0; i < CLI_COUNT(tensors); i++) {
        int code = loaded_open(tensors[i], RUN, names[i], paths[i], options->order);
        if (code != CLI_CONTINUE) {
            return code;
        }
    }
    int code = check_inputs(state);
    if (code == CLI_CONTINUE) {
        note_problem(state);
        code = check_lengths(options, state);
    }
    if (code == CLI_CONTINUE && options->key_mask != NULL) {
        code = mask_open(&state->mask, RUN, options->key_mask, state->problem.batch, state->problem.n);
    }
    return code;
}

int run_load(const run_options *options, run_state *state) {
    loaded_tensor *tensors[] = {&state->q, &state->k, &state->v};
    int code = open_inputs(options, state);
    if (code == CLI_CONTINUE) {
        code = take_rows(state);
    }
    for (size_t i = 0; i < CLI_COUNT(tensors) && code == CLI_CONTINUE && state->config.dtype != DA_DTYPE_ANY; i++) {
        code = loaded_convert(tensors[i], RUN, state->config.dtype, da_context_threads(state->context));
    }
    return code;
}
