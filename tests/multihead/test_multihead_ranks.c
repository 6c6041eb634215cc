/* A module over ranks gives what it gives in one process: outputs, gradients of inputs, and, once reduced, of parameters. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dilated_attention_nn.h"
#include "support/ranks.h"

enum {
    BATCH = 2,
    N = 53,
    EMBED = 24,
    HEADS = 4,
    KV_HEADS = 2,
    ELEMENTS = BATCH * N * EMBED,
    MAX_RANKS = 5,
    PARAMETERS = 4096
};

/* Of sums in f64 of some hundred terms, in another order. */
static const double TOLERANCE = 1e-12;

typedef struct setting {
    const char *implementation;
    int ranks;
    da_partition partition;
    da_position position;
    bool padded;
} setting;

/* What a run of all ranks, or of one process, gives. */
typedef struct results {
    double out[ELEMENTS], grad_input[ELEMENTS], gradients[MAX_RANKS][PARAMETERS];
    int64_t parameters[MAX_RANKS];
    da_status status[MAX_RANKS];
    char message[MAX_RANKS][256];
} results;

typedef struct whole {
    setting set;
    double input[ELEMENTS], grad_out[ELEMENTS];
    results got;
} whole;

/* One rank's tensors, dense. */
typedef struct part {
    int64_t length;
    double input[ELEMENTS], grad_out[ELEMENTS], out[ELEMENTS], grad_input[ELEMENTS];
} part;

static int64_t position_of(const setting *set, int rank, int64_t row) {
    int64_t position = 0;
    da_partition_position(set->partition, 3, N, set->ranks, rank, row, &position);
    return position;
}

/* Copies a rank's rows out of (or into) an array of all tokens. */
static void copy_rows(const setting *set, int rank, int64_t length, double *all, double *rows, bool out_of) {
    for (int64_t b = 0; b < BATCH; b++) {
        for (int64_t row = 0; row < length; row++) {
            double *one = all + (b * N + position_of(set, rank, row)) * EMBED,
                   *mine = rows + (b * length + row) * EMBED;
            memcpy(out_of ? mine : one, out_of ? one : mine, EMBED * sizeof(double));
        }
    }
}

static void make_configs(const setting *set, da_multihead_config *config, da_attention_config *attention) {
    da_multihead_config_init(config);
    config->embed_dim = EMBED;
    config->num_heads = HEADS;
    config->kv_heads = KV_HEADS;
    config->dtype = DA_F64;
    config->qk_layer_norm = true;
    config->position = set->position;
    da_attention_config_init(attention);
    da_attention_config_set_patterns(attention, (int64_t[]){8, 20, 64}, 3, (int64_t[]){1, 2, 5}, 3);
    attention->causal = set->padded;
    attention->partition = set->partition;
    attention->stripe = 3;
}

static da_status run_module(da_multihead *multihead, part *p, const da_call_options *options,
                            da_multihead_gradients *gradients) {
    da_tensor x = da_sequence_make(p->input, DA_F64, BATCH, p->length, EMBED), y = x, grad_y = x, grad_x = x;
    da_multihead_backward_tensors tensors;
    da_multihead_saved *saved = NULL;
    y.data = p->out;
    grad_y.data = p->grad_out;
    grad_x.data = p->grad_input;
    da_multihead_backward_tensors_init(&tensors);
    tensors.query = &x;
    tensors.grad_out = &grad_y;
    tensors.grad_query = &grad_x;
    tensors.gradients = gradients;
    da_status status = da_multihead_forward_training(multihead, &x, NULL, NULL, &y, options, &saved);
    if (status == DA_OK) {
        status = da_multihead_backward(multihead, saved, &tensors, options);
    }
    da_multihead_saved_free(saved);
    return status == DA_OK ? da_multihead_gradients_reduce(gradients) : status;
}

/* All gradients, one after the other. */
static int64_t copy_gradients(const da_multihead *multihead, da_multihead_gradients *gradients, double *to) {
    int64_t count = 0;
    for (size_t k = 0; k < da_multihead_parameter_count(multihead); k++) {
        da_parameter gradient;
        da_multihead_gradient_at(gradients, k, &gradient);
        int64_t elements = gradient.shape[0] * (gradient.rank > 1 ? gradient.shape[1] : 1);
        memcpy(to + count, gradient.data, (size_t)elements * sizeof(double));
        count += elements;
    }
    return count;
}

static da_status run_part(whole *w, const da_comm *comm, int rank, part *p) {
    static const int64_t lengths[BATCH] = {N - 7, 11};
    da_context_options context_options;
    da_multihead_config config;
    da_attention_config attention;
    da_call_options options;
    da_context *context = NULL;
    da_multihead *multihead = NULL;
    da_multihead_gradients *gradients = NULL;
    da_context_options_init(&context_options);
    context_options.threads = 1;
    context_options.comm = comm;
    da_call_options_init(&options);
    options.key_lengths = w->set.padded ? lengths : NULL;
    make_configs(&w->set, &config, &attention);
    da_status status = da_context_create(&context_options, &context);
    if (status == DA_OK) {
        status = da_multihead_create(context, w->set.implementation, &config, &attention, &multihead);
    }
    if (status == DA_OK) {
        da_multihead_initialise(multihead, 5);
        status = da_multihead_gradients_create(multihead, &gradients);
    }
    if (status == DA_OK) {
        status = run_module(multihead, p, &options, gradients);
    }
    if (status == DA_OK) {
        w->got.parameters[rank] = copy_gradients(multihead, gradients, w->got.gradients[rank]);
    } else {
        snprintf(w->got.message[rank], sizeof w->got.message[rank], "%s", da_last_error_message());
    }
    da_multihead_gradients_free(gradients);
    da_multihead_free(multihead);
    da_context_free(context);
    return status;
}

static void run_rank(const da_comm *comm, void *user) {
    whole *w = user;
    part *p = calloc(1, sizeof *p);
    da_partition_length(w->set.partition, 3, N, w->set.ranks, comm->rank, &p->length);
    copy_rows(&w->set, comm->rank, p->length, w->input, p->input, true);
    copy_rows(&w->set, comm->rank, p->length, w->grad_out, p->grad_out, true);
    w->got.status[comm->rank] = run_part(w, comm, comm->rank, p);
    copy_rows(&w->set, comm->rank, p->length, w->got.out, p->out, false);
    copy_rows(&w->set, comm->rank, p->length, w->got.grad_input, p->grad_input, false);
    free(p);
}

static void assert_near(const char *what, const double *got, const double *expected, int64_t count) {
    double largest = 0;
    for (int64_t k = 0; k < count; k++) {
        largest = fmax(largest, fabs(expected[k]));
    }
    for (int64_t k = 0; k < count; k++) {
        if (!(fabs(got[k] - expected[k]) <= TOLERANCE * largest)) {
            fail_msg("%s[%lld] is %.17g, not %.17g", what, (long long)k, got[k], expected[k]);
        }
    }
}

static void fill(double *values, int64_t count, unsigned seed) {
    uint64_t state = seed;
    for (int64_t k = 0; k < count; k++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        values[k] = (double)(int64_t)(state >> 33) / (double)(1 << 30) - 1;
    }
}

static void compare(const setting *set) {
    static whole one, many;
    static part p;
    fill(one.input, ELEMENTS, 1);
    fill(one.grad_out, ELEMENTS, 2);
    one.set = *set;
    one.set.implementation = "improved";
    p.length = N;
    memcpy(p.input, one.input, sizeof p.input);
    memcpy(p.grad_out, one.grad_out, sizeof p.grad_out);
    assert_int_equal(run_part(&one, NULL, 0, &p), DA_OK);
    many = one;
    many.set = *set;
    assert_true(ranks_run(set->ranks, 60, NULL, run_rank, &many));
    for (int rank = 0; rank < set->ranks; rank++) {
        if (many.got.status[rank] != DA_OK) {
            fail_msg("rank %d: %s", rank, many.got.message[rank]);
        }
        assert_near("a gradient of a parameter", many.got.gradients[rank], one.got.gradients[0], one.got.parameters[0]);
        assert_memory_equal(many.got.gradients[rank], many.got.gradients[0],
                            (size_t)one.got.parameters[0] * sizeof(double));
    }
    assert_near("out", many.got.out, p.out, ELEMENTS);
    assert_near("grad_input", many.got.grad_input, p.grad_input, ELEMENTS);
}

static void test_same_as_one_process(void **state) {
    static const char *const implementations[] = {"ring", "distributed", "auto"};
    int runs = 0;
    for (int ranks = 2; ranks <= MAX_RANKS; ranks++) {
        for (int partition = DA_PARTITION_CONTIGUOUS; partition <= DA_PARTITION_STRIPED; partition++) {
            for (int position = DA_POSITION_NONE; position <= DA_POSITION_XPOS; position++, runs++) {
                const setting set = {implementations[runs % 3], ranks, (da_partition)partition, (da_position)position,
                                     runs % 2 == 0};
                compare(&set);
            }
        }
    }
}

/* A rank whose arguments are refused does not leave the others waiting. */
static void refuse_on_rank_1(const da_comm *comm, void *user) {
    whole *w = user;
    part *p = calloc(1, sizeof *p);
    p->length = comm->rank == 1 ? 0 : 5;
    w->got.status[comm->rank] = run_part(w, comm, comm->rank, p);
    free(p);
}

static void test_a_refusal_ends_all(void **state) {
    static whole w;
    w.set = (setting){"distributed", 3, DA_PARTITION_CONTIGUOUS, DA_POSITION_ROPE, false};
    assert_true(ranks_run(3, 60, NULL, refuse_on_rank_1, &w));
    assert_int_equal(w.got.status[0], DA_ERROR_COMMUNICATION);
    assert_int_equal(w.got.status[1], DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(w.got.status[2], DA_ERROR_COMMUNICATION);
}

/* Of a partition that gives each rank its number of tokens. */
static void test_wrong_lengths(void **state) {
    static whole w;
    w.set = (setting){"ring", 3, DA_PARTITION_ZIGZAG, DA_POSITION_NONE, false};
    assert_true(ranks_run(3, 60, NULL, refuse_on_rank_1, &w));
    for (int rank = 0; rank < 3; rank++) {
        assert_int_not_equal(w.got.status[rank], DA_OK);
    }
}

static void test_reduce_in_one_process(void **state) {
    assert_int_equal(da_multihead_gradients_reduce(NULL), DA_ERROR_INVALID_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_one_process),
        cmocka_unit_test(test_a_refusal_ends_all),
        cmocka_unit_test(test_wrong_lengths),
        cmocka_unit_test(test_reduce_in_one_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
