#define _POSIX_C_SOURCE 200809L

/* The language model: gradients, training, checkpoints, generation, threads, memory. The attention is the tests' dense one,
 * which has a backward pass and computes in double. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "dilated_attention_nn.h"
#include "multihead/dense_attention.h"
#include "support/counting_allocator.h"
#include "support/environment.h"

enum { BATCH = 2, N = 19, WORDS = 13, EMBED = 12, LAYERS = 2, ELEMENTS = BATCH * N };

typedef struct setup {
    counting_allocator counter;
    int threads;
    da_longnet_config config;
    da_multihead_config multihead;
    da_attention_config attention;
    da_adamw_config adamw_config;
    int32_t tokens[ELEMENTS], targets[ELEMENTS];
    da_longnet_batch batch;
    da_context *context;
    da_longnet *model;
    da_longnet_gradients *gradients;
    da_adamw *adamw;
} setup;

static void setup_init(setup *s) {
    *s = (setup){.threads = 1};
    da_longnet_config_init(&s->config);
    da_multihead_config_init(&s->multihead);
    da_attention_config_init(&s->attention);
    da_adamw_config_init(&s->adamw_config);
    s->config.vocab_size = WORDS;
    s->config.layers = LAYERS;
    s->config.ffn_dim = 20;
    s->multihead.embed_dim = EMBED;
    s->multihead.num_heads = 3;
    s->multihead.kv_heads = 1;
    s->multihead.position = DA_POSITION_ROPE;
    s->multihead.dtype = DA_F64;
    s->attention.causal = true;
    (void)da_attention_config_set_patterns(&s->attention, (int64_t[]){5, 11}, 2, (int64_t[]){1, 2}, 2);
    for (int k = 0; k < ELEMENTS; k++) {
        s->tokens[k] = (int32_t)((unsigned)k * 2654435761u >> 8) % WORDS;
        s->targets[k] = k % 7 == 3 ? -1 : (int32_t)((unsigned)k * 2246822519u >> 9) % WORDS;
    }
    da_longnet_batch_init(&s->batch);
    s->batch.tokens = s->tokens;
    s->batch.targets = s->targets;
    s->batch.batch = BATCH;
    s->batch.n = N;
}

/* Norms and biases moved off 1 and 0, so that their part in the gradients shows. */
static void disturb(da_longnet *model) {
    for (size_t k = 0; k < da_longnet_parameter_count(model); k++) {
        da_parameter p;
        assert_int_equal(da_longnet_parameter_at(model, k, &p), DA_OK);
        for (int64_t e = 0; p.rank == 1 && p.dtype == DA_F64 && e < p.shape[0]; e++) {
            ((double *)p.data)[e] += 0.3 * sin((double)(e + 7 * (int64_t)k));
        }
        for (int64_t e = 0; p.rank == 2 && p.dtype == DA_F64 && e < p.shape[0] * p.shape[1]; e++) {
            ((double *)p.data)[e] += 0.2 * cos((double)(3 * e + (int64_t)k));
        }
    }
}

static da_status setup_open(setup *s) {
    da_context_options options;
    da_context_options_init(&options);
    options.threads = s->threads;
    options.allocator = counting_allocator_interface(&s->counter);
    da_status status = da_context_create(&options, &s->context);
    if (status == DA_OK) {
        status = da_longnet_create(s->context, "dense", &s->config, &s->multihead, &s->attention, &s->model);
    }
    if (status == DA_OK) {
        status = da_longnet_initialise(s->model, 5);
    }
    if (status == DA_OK) {
        status = da_longnet_gradients_create(s->model, &s->gradients);
    }
    return status == DA_OK ? da_adamw_create(s->model, &s->adamw_config, &s->adamw) : status;
}

static void setup_close(setup *s) {
    da_adamw_free(s->adamw);
    da_longnet_gradients_free(s->gradients);
    da_longnet_free(s->model);
    da_context_free(s->context);
    s->adamw = NULL;
    s->gradients = NULL;
    s->model = NULL;
    s->context = NULL;
    assert_int_equal(s->counter.live, 0);
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

/* Central differences with h = 1e-5: their error is h^2 / 6 of a third derivative, and 2^-53 loss / h, below 1e-9. */
static void check_gradients(setup *s) {
    double loss, alone;
    assert_int_equal(setup_open(s), DA_OK);
    disturb(s->model);
    assert_int_equal(da_longnet_backward(s->model, &s->batch, s->gradients, &loss), DA_OK);
    assert_int_equal(da_longnet_loss(s->model, &s->batch, &alone), DA_OK);
    assert_true(loss == alone);
    for (size_t k = 0; k < da_longnet_parameter_count(s->model); k++) {
        da_parameter p, g;
        double largest = 0, h = 1e-5;
        assert_int_equal(da_longnet_parameter_at(s->model, k, &p), DA_OK);
        assert_int_equal(da_longnet_gradient_at(s->gradients, k, &g), DA_OK);
        assert_string_equal(p.name, g.name);
        int64_t count = p.shape[0] * p.shape[1], step = count / (is_slow_tool() ? 2 : 9) + 1;
        for (int64_t e = (int64_t)k % step; e < count; e += step) {
            double *at = (double *)p.data + e, before = *at, up, down;
            *at = before + h;
            assert_int_equal(da_longnet_loss(s->model, &s->batch, &up), DA_OK);
            *at = before - h;
            assert_int_equal(da_longnet_loss(s->model, &s->batch, &down), DA_OK);
            *at = before;
            double gradient = ((double *)g.data)[e], difference = (up - down) / (2 * h);
            if (!(fabs(gradient - difference) < 1e-8 + 1e-6 * fabs(gradient))) {
                fail_msg("%s[%lld]: %.12g, by differences %.12g", p.name, (long long)e, gradient, difference);
            }
            largest = fmax(largest, fabs(gradient));
        }
        /* A key's bias moves all scores of a query alike where no rotation comes after it; nothing else has no effect. */
        assert_true(largest > 1e-7 || strstr(p.name, "k_proj.bias"));
    }
    setup_close(s);
}

static void test_gradients(void **state) {
    setup s;
    setup_init(&s);
    check_gradients(&s);
}

static void test_gradients_untied_relu_plain(void **state) {
    setup s;
    setup_init(&s);
    s.config.tied_output = false;
    s.config.activation = DA_ACTIVATION_RELU;
    s.multihead.bias = s.multihead.layer_norm = false;
    check_gradients(&s);
}

static void test_gradients_dropout_all_options(void **state) {
    setup s;
    setup_init(&s);
    s.multihead.qk_layer_norm = true;
    s.multihead.position = DA_POSITION_XPOS;
    s.multihead.kv_heads = 0;
    s.attention.dropout = 0.25;
    s.batch.training = true;
    s.batch.dropout_seed = 77;
    check_gradients(&s);
}

static void test_uniform_model_loses_logarithm(void **state) {
    setup s;
    double loss;
    setup_init(&s);
    assert_int_equal(setup_open(&s), DA_OK);
    da_parameter embed;
    assert_int_equal(da_longnet_parameter(s.model, "embed.weight", &embed), DA_OK);
    memset(embed.data, 0, sizeof(double) * WORDS * EMBED);
    assert_int_equal(da_longnet_loss(s.model, &s.batch, &loss), DA_OK);
    assert_true(fabs(loss - log(WORDS)) < 1e-14);
    setup_close(&s);
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

static void train(setup *s, int64_t from, int64_t to, double *losses) {
    da_schedule schedule;
    da_schedule_init(&schedule);
    schedule.peak = 0.02;
    schedule.warmup_steps = 3;
    schedule.total_steps = 40;
    for (int64_t k = from; k < to; k++) {
        da_longnet_gradients_zero(s->gradients);
        assert_int_equal(da_longnet_backward(s->model, &s->batch, s->gradients, &losses[k]), DA_OK);
        assert_int_equal(da_adamw_step(s->adamw, s->gradients, da_schedule_rate(&schedule, k), NULL), DA_OK);
    }
}

static void assert_same_parameters(da_longnet *a, da_longnet *b) {
    for (size_t k = 0; k < da_longnet_parameter_count(a); k++) {
        da_parameter x, y;
        assert_int_equal(da_longnet_parameter_at(a, k, &x), DA_OK);
        assert_int_equal(da_longnet_parameter_at(b, k, &y), DA_OK);
        assert_memory_equal(x.data, y.data, (size_t)(x.shape[0] * x.shape[1]) * da_dtype_size(x.dtype));
    }
}

static void test_training_lowers_the_loss(void **state) {
    setup s;
    double losses[40];
    setup_init(&s);
    assert_int_equal(setup_open(&s), DA_OK);
    train(&s, 0, 40, losses);
    assert_true(losses[0] > 2.4 && losses[39] < 1.0);
    setup_close(&s);
}

static void test_threads_do_not_matter(void **state) {
    for (int dtype = DA_F32; dtype <= DA_F64; dtype++) {
        setup s[2];
        double losses[2][5];
        for (int k = 0; k < 2; k++) {
            setup_init(&s[k]);
            s[k].threads = k == 0 ? 1 : 3;
            s[k].multihead.dtype = (da_dtype)dtype;
            s[k].batch.batch = 1;
            s[k].batch.n = ELEMENTS;
            assert_int_equal(setup_open(&s[k]), DA_OK);
            train(&s[k], 0, 5, losses[k]);
        }
        assert_memory_equal(losses[0], losses[1], sizeof losses[0]);
        assert_same_parameters(s[0].model, s[1].model);
        setup_close(&s[0]);
        setup_close(&s[1]);
    }
}

/* The update of one element by its formula, in plain C. */
static void test_adamw_formula(void **state) {
    setup s;
    setup_init(&s);
    s.adamw_config.clip = 0.01;
    assert_int_equal(setup_open(&s), DA_OK);
    const char *const names[] = {"layers.1.ffn.up.weight", "layers.0.norm2.weight"};
    double m[2] = {0}, v[2] = {0}, loss, norm;
    for (int t = 1; t <= 3; t++) {
        double before[2], g[2], all = 0;
        da_longnet_gradients_zero(s.gradients);
        assert_int_equal(da_longnet_backward(s.model, &s.batch, s.gradients, &loss), DA_OK);
        for (size_t k = 0; k < da_longnet_parameter_count(s.model); k++) {
            da_parameter gradient;
            assert_int_equal(da_longnet_gradient_at(s.gradients, k, &gradient), DA_OK);
            for (int64_t e = 0; e < gradient.shape[0] * gradient.shape[1]; e++) {
                all += ((double *)gradient.data)[e] * ((double *)gradient.data)[e];
            }
        }
        da_parameter p[2], gradient;
        for (int k = 0; k < 2; k++) {
            assert_int_equal(da_longnet_parameter(s.model, names[k], &p[k]), DA_OK);
            assert_int_equal(da_longnet_gradient(s.gradients, names[k], &gradient), DA_OK);
            before[k] = ((double *)p[k].data)[4];
            g[k] = ((double *)gradient.data)[4] * 0.01 / sqrt(all);
        }
        assert_int_equal(da_adamw_step(s.adamw, s.gradients, 0.1, &norm), DA_OK);
        assert_true(norm > 0.01 && fabs(norm / sqrt(all) - 1) < 1e-13);
        for (int k = 0; k < 2; k++) {
            m[k] = 0.9 * m[k] + 0.1 * g[k];
            v[k] = 0.95 * v[k] + 0.05 * g[k] * g[k];
            double decay = k == 0 ? 0.1 : 0;
            double step = m[k] / (1 - pow(0.9, t)) / (sqrt(v[k] / (1 - pow(0.95, t))) + 1e-8) + decay * before[k];
            assert_true(fabs(((double *)p[k].data)[4] - (before[k] - 0.1 * step)) < 1e-12);
        }
    }
    assert_int_equal(da_adamw_steps(s.adamw), 3);
    setup_close(&s);
}

static void test_schedule(void **state) {
    da_schedule s;
    da_schedule_init(&s);
    s.peak = 1;
    s.last = 0.1;
    s.warmup_steps = 4;
    s.total_steps = 12;
    assert_true(da_schedule_rate(&s, 0) == 0.25 && da_schedule_rate(&s, 3) == 1 && da_schedule_rate(&s, 4) == 1);
    assert_true(fabs(da_schedule_rate(&s, 8) - 0.55) < 1e-15);
    assert_true(da_schedule_rate(&s, 12) == 0.1 && da_schedule_rate(&s, 100) == 0.1);
    s.total_steps = 0;
    assert_true(da_schedule_rate(&s, 100) == 1);
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------- */

static const char *scratch_path(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/test_longnet.%ld.safetensors", (long)getpid());
    return path;
}

static void test_resume_is_bit_identical(void **state) {
    setup whole, part;
    double losses[2][10];
    char note[16];
    setup_init(&whole);
    setup_init(&part);
    assert_int_equal(setup_open(&whole), DA_OK);
    assert_int_equal(setup_open(&part), DA_OK);
    train(&whole, 0, 10, losses[0]);
    train(&part, 0, 6, losses[1]);
    const da_note notes[] = {{"seed", "17"}};
    assert_int_equal(da_longnet_save(scratch_path(), part.model, part.adamw, notes, 1), DA_OK);
    da_adamw_free(part.adamw);
    da_longnet_gradients_free(part.gradients);
    da_longnet_free(part.model);
    part.adamw = NULL;
    assert_int_equal(da_longnet_load(part.context, "dense", scratch_path(), &part.model), DA_OK);
    assert_int_equal(da_longnet_gradients_create(part.model, &part.gradients), DA_OK);
    assert_int_equal(da_adamw_load(part.model, scratch_path(), &part.adamw), DA_OK);
    assert_int_equal(da_adamw_steps(part.adamw), 6);
    assert_int_equal(da_longnet_note(scratch_path(), "seed", note, sizeof note), DA_OK);
    assert_string_equal(note, "17");
    train(&part, 6, 10, losses[1]);
    assert_memory_equal(losses[0], losses[1], sizeof losses[0]);
    assert_same_parameters(whole.model, part.model);
    setup_close(&whole);
    setup_close(&part);
    unlink(scratch_path());
}

/* Every byte of the header changed, and the file cut everywhere: a model or a message, never a crash. */
static void test_corrupt_checkpoints(void **state) {
    setup s;
    setup_init(&s);
    s.config.layers = 1;
    assert_int_equal(setup_open(&s), DA_OK);
    assert_int_equal(da_longnet_save(scratch_path(), s.model, s.adamw, NULL, 0), DA_OK);
    FILE *file = fopen(scratch_path(), "rb");
    assert_non_null(file);
    static unsigned char bytes[1 << 20];
    size_t size = fread(bytes, 1, sizeof bytes, file), refused = 0, tried = 0;
    fclose(file);
    assert_true(size > 0 && size < sizeof bytes);
    size_t header = 8 + (size_t)bytes[0] + ((size_t)bytes[1] << 8);
    for (size_t k = 0; k < header + 40; k += is_slow_tool() ? 3 : 1, tried++) {
        bool cut = k >= header;
        size_t length = cut ? size - 1 - (k - header) * (size / 41) : size;
        bytes[cut ? 0 : k] ^= cut ? 0 : 1;
        file = fopen(scratch_path(), "wb");
        assert_true(fwrite(bytes, 1, length, file) == length);
        fclose(file);
        bytes[cut ? 0 : k] ^= cut ? 0 : 1;
        da_longnet *model;
        da_status status = da_longnet_load(s.context, "dense", scratch_path(), &model);
        refused += status != DA_OK;
        assert_true(status == DA_OK ? model != NULL : model == NULL && da_last_error_message()[0] != '\0');
        assert_true(!cut || status == DA_ERROR_FORMAT);
        da_longnet_free(model);
    }
    assert_true(refused > tried / 2);
    setup_close(&s);
    unlink(scratch_path());
}

/* The system refuses to reserve the space, here because of a limit on the size of files: the old file stays. */
static void test_full_disk(void **state) {
    setup s;
    struct rlimit before, limit;
    da_longnet *old;
    setup_init(&s);
    assert_int_equal(setup_open(&s), DA_OK);
    assert_int_equal(da_longnet_save(scratch_path(), s.model, NULL, NULL, 0), DA_OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(da_longnet_save(scratch_path(), s.model, s.adamw, NULL, 0), DA_ERROR_IO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(da_longnet_load(s.context, "dense", scratch_path(), &old), DA_OK);
    assert_same_parameters(s.model, old);
    da_longnet_free(old);
    unlink(scratch_path());
    assert_int_equal(da_longnet_save("/dev/full", s.model, NULL, NULL, 0), DA_ERROR_IO);
    assert_int_equal(da_longnet_save("/nowhere/model.safetensors", s.model, NULL, NULL, 0), DA_ERROR_IO);
    assert_int_equal(da_longnet_save("", s.model, NULL, NULL, 0), DA_ERROR_INVALID_ARGUMENT);
    setup_close(&s);
}

static void test_no_optimiser_in_file(void **state) {
    setup s;
    da_adamw *adamw;
    setup_init(&s);
    assert_int_equal(setup_open(&s), DA_OK);
    assert_int_equal(da_longnet_save(scratch_path(), s.model, NULL, NULL, 0), DA_OK);
    assert_int_equal(da_adamw_load(s.model, scratch_path(), &adamw), DA_ERROR_FORMAT);
    assert_null(adamw);
    assert_non_null(strstr(da_last_error_message(), "no optimiser"));
    setup_close(&s);
    unlink(scratch_path());
}

/* ---- generation -------------------------------------------------------------------------------------------------- */

static void check_decoder(setup *s, int64_t prompt) {
    double all[N * WORDS], one[WORDS];
    da_longnet_decoder *decoder;
    assert_int_equal(setup_open(s), DA_OK);
    disturb(s->model);
    s->batch.batch = 1;
    assert_int_equal(da_longnet_logits(s->model, &s->batch, 0, N, all), DA_OK);
    assert_int_equal(da_longnet_decoder_create(s->model, N, &decoder), DA_OK);
    for (int64_t fed = 0; fed < N;) {
        int64_t count = fed == 0 ? prompt : 1;
        assert_int_equal(da_longnet_decoder_feed(decoder, s->tokens + fed, count, one), DA_OK);
        fed += count;
        assert_int_equal(da_longnet_decoder_length(decoder), fed);
        for (int v = 0; v < WORDS; v++) {
            assert_true(fabs(one[v] - all[(fed - 1) * WORDS + v]) < 1e-11);
        }
    }
    assert_int_equal(da_longnet_decoder_feed(decoder, s->tokens, 1, one), DA_ERROR_INVALID_ARGUMENT);
    da_longnet_decoder_free(decoder);
    setup_close(s);
}

static void test_decoder_gives_the_logits(void **state) {
    for (int option = 0; option < 7; option++) {
        setup s;
        setup_init(&s);
        s.multihead.qk_layer_norm = option == 1;
        s.multihead.position = option == 2 ? DA_POSITION_XPOS : DA_POSITION_ROPE;
        s.attention.mixing = option == 3 ? DA_MIXING_HEAD_GROUPS : DA_MIXING_LONGNET;
        s.attention.window = option == 4 ? 4 : DA_NO_WINDOW;
        s.attention.overlap = option == 5 ? DA_OVERLAP_ONCE : DA_OVERLAP_COUNT;
        s.attention.offset_rule = option == 6 ? DA_OFFSET_BLOCK : DA_OFFSET_MOD;
        s.threads = 1 + option % 2;
        check_decoder(&s, 1 + 3 * option % 8);
    }
}

/* ---- bad input and memory ---------------------------------------------------------------------------------------- */

static void test_bad_input(void **state) {
    setup s;
    double loss;
    setup_init(&s);
    assert_int_equal(setup_open(&s), DA_OK);
#define REFUSED(expression, text)                                                                                      \
    assert_int_equal(expression, DA_ERROR_INVALID_ARGUMENT);                                                           \
    assert_non_null(strstr(da_last_error_message(), text))
    REFUSED(da_longnet_loss(NULL, &s.batch, &loss), "model is NULL");
    REFUSED(da_longnet_loss(s.model, &s.batch, NULL), "loss is NULL");
    REFUSED(da_longnet_backward(s.model, &s.batch, NULL, &loss), "gradients is NULL");
    s.tokens[3] = WORDS;
    REFUSED(da_longnet_loss(s.model, &s.batch, &loss), "tokens[0][3] is 13");
    s.tokens[3] = 0;
    s.targets[20] = WORDS + 4;
    REFUSED(da_longnet_loss(s.model, &s.batch, &loss), "targets[1][1] is 17");
    for (int k = 0; k < ELEMENTS; k++) {
        s.targets[k] = -1;
    }
    REFUSED(da_longnet_loss(s.model, &s.batch, &loss), "all negative");
    s.batch.n = 0;
    REFUSED(da_longnet_loss(s.model, &s.batch, &loss), "batch.n is 0");
    REFUSED(da_adamw_step(s.adamw, s.gradients, -1, NULL), "rate is -1");
    da_longnet *other;
    s.attention.causal = false;
    REFUSED(da_longnet_create(s.context, "dense", &s.config, &s.multihead, &s.attention, &other), "causal is false");
    s.attention.causal = true;
    s.multihead.dtype = DA_BF16;
    REFUSED(da_longnet_create(s.context, "dense", &s.config, &s.multihead, &s.attention, &other), "dtype is bf16");
    s.multihead.dtype = DA_F64;
    s.config.layers = 0;
    REFUSED(da_longnet_create(s.context, "dense", &s.config, &s.multihead, &s.attention, &other), "layers is 0");
    da_adamw *adamw;
    s.adamw_config.beta2 = 1;
    REFUSED(da_adamw_create(s.model, &s.adamw_config, &adamw), "beta2 is 1");
    da_parameter p;
    REFUSED(da_longnet_parameter(s.model, "layers.9.norm1.weight", &p), "layers.9.norm1.weight");
    setup_close(&s);
}

static da_status whole_session(setup *s) {
    double loss, logits[WORDS];
    da_longnet_decoder *decoder;
    da_status status = setup_open(s);
    if (status == DA_OK) {
        status = da_longnet_backward(s->model, &s->batch, s->gradients, &loss);
    }
    if (status == DA_OK) {
        status = da_adamw_step(s->adamw, s->gradients, 1e-3, NULL);
    }
    if (status == DA_OK) {
        status = da_longnet_save(scratch_path(), s->model, s->adamw, NULL, 0);
    }
    if (status == DA_OK) {
        status = da_longnet_decoder_create(s->model, N, &decoder);
    }
    if (status == DA_OK) {
        status = da_longnet_decoder_feed(decoder, s->tokens, 3, logits);
        if (status == DA_OK) {
            status = da_longnet_decoder_feed(decoder, s->tokens, 2, logits);
        }
        da_longnet_decoder_free(decoder);
    }
    return status;
}

static void test_out_of_memory_at_any_allocation(void **state) {
    long number = 1;
    for (bool failed = true; failed; number += is_slow_tool() ? 5 : 1) {
        setup s;
        setup_init(&s);
        s.counter = (counting_allocator){.fail_from = number, .fail_to = number};
        da_status status = whole_session(&s);
        failed = s.counter.calls >= number;
        assert_int_equal(status, failed ? DA_ERROR_OUT_OF_MEMORY : DA_OK);
        setup_close(&s);
    }
    assert_true(number > 40);
    unlink(scratch_path());
}

static bool stop(int64_t finished, int64_t total, void *user) {
    *(int64_t *)user = total;
    return finished < 3;
}

static void test_cancelling(void **state) {
    setup s;
    double loss;
    int64_t total = 0;
    setup_init(&s);
    s.batch.progress = stop;
    s.batch.progress_user = &total;
    assert_int_equal(setup_open(&s), DA_OK);
    assert_int_equal(da_longnet_backward(s.model, &s.batch, s.gradients, &loss), DA_ERROR_CANCELLED);
    assert_true(total == 2 * LAYERS);
    assert_int_equal(da_longnet_loss(s.model, &s.batch, &loss), DA_OK);
    setup_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_gradients_untied_relu_plain),
        cmocka_unit_test(test_gradients_dropout_all_options),
        cmocka_unit_test(test_uniform_model_loses_logarithm),
        cmocka_unit_test(test_training_lowers_the_loss),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_adamw_formula),
        cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_resume_is_bit_identical),
        cmocka_unit_test(test_corrupt_checkpoints),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_no_optimiser_in_file),
        cmocka_unit_test(test_decoder_gives_the_logits),
        cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_out_of_memory_at_any_allocation),
        cmocka_unit_test(test_cancelling),
    };
    return dense_attention_register() == DA_OK ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
