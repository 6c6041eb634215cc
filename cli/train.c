/* train: a byte-level language model from plain text. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "commands.h"
#include "configuration.h"
#include "dilated_attention_nn.h"
#include "interrupt.h"
#include "machine.h"
#include "model/text_data.h"
#include "progress.h"

#define COMMAND "train"
#define VALIDATION_PART 0.05
#define VALIDATION_WINDOWS 4

typedef struct train_options {
    configuration configuration;
    machine machine;
    const char *text, *out, *log;
    int64_t steps, sequence, batch, embed_dim, layers, heads, seed, warmup, validate_every, checkpoint_every;
    cli_number rate;
    bool resume, quiet;
} train_options;

typedef struct train_state {
    da_context *context;
    da_longnet *model;
    da_longnet_gradients *gradients;
    da_adamw *adamw;
    da_text_data text;
    da_longnet_batch batch;
    int32_t *tokens, *targets;
    da_schedule schedule;
    FILE *log;
} train_state;

/* ---- setting up -------------------------------------------------------------------------------------------------- */

/* What must be the same for a training to go on as if it had not stopped. */
static const char *fingerprint(const train_options *o, char text[256]) {
    snprintf(text, 256,
             "steps %" PRId64 ", sequence %" PRId64 ", batch %" PRId64 ", warmup %" PRId64 ", seed %" PRId64
             ", lr %.17g",
             o->steps, o->sequence, o->batch, o->warmup, o->seed, o->rate.value);
    return text;
}

/* "auto" chooses for inference; training takes its choice where that has a backward pass. */
static const char *trainable(const da_context *context) {
    static const char *const names[] = {"improved", "standard"};
    for (size_t k = 0; k < CLI_COUNT(names); k++) {
        da_implementation_info info;
        da_implementation_info_init(&info);
        if (da_implementation_get_info(context, names[k], &info) == DA_OK && info.available && info.backward) {
            return names[k];
        }
    }
    return "auto";
}

static int resume(const train_options *o, train_state *s) {
    char ours[256], theirs[256];
    da_status status = da_longnet_load(s->context, trainable(s->context), o->out, &s->model);
    if (status == DA_OK) {
        status = da_adamw_load(s->model, o->out, &s->adamw);
    }
    if (status == DA_OK) {
        status = da_longnet_note(o->out, "training", theirs, sizeof theirs);
    }
    if (status != DA_OK) {
        return cli_fail(COMMAND, "--resume: %s", da_last_error_message());
    }
    if (strcmp(fingerprint(o, ours), theirs) != 0) {
        return cli_usage(COMMAND, "--resume: %s was trained with %s; these options say %s", o->out, theirs, ours);
    }
    return CLI_CONTINUE;
}

static int begin(const train_options *o, train_state *s) {
    da_attention_config attention;
    da_longnet_config config;
    da_multihead_config multihead;
    da_adamw_config adamw;
    int code = configuration_finish(&o->configuration, COMMAND, &attention);
    if (code != CLI_CONTINUE) {
        return code;
    }
    da_longnet_config_init(&config);
    da_multihead_config_init(&multihead);
    da_adamw_config_init(&adamw);
    config.layers = o->layers;
    multihead.embed_dim = o->embed_dim;
    multihead.num_heads = o->heads;
    multihead.position = DA_POSITION_ROPE;
    multihead.dtype = attention.dtype == DA_DTYPE_ANY ? DA_F32 : attention.dtype;
    attention.causal = true;
    da_status status = da_longnet_create(s->context, trainable(s->context), &config, &multihead, &attention, &s->model);
    if (status == DA_OK) {
        status = da_longnet_initialise(s->model, (uint64_t)o->seed);
    }
    if (status == DA_OK) {
        status = da_adamw_create(s->model, &adamw, &s->adamw);
    }
    return status == DA_OK ? CLI_CONTINUE : cli_refused(COMMAND, status);
}

static int prepare(train_options *o, train_state *s) {
    int code = machine_context(&o->machine, COMMAND, NULL, NULL, &s->context);
    if (code != CLI_CONTINUE) {
        return code;
    }
    if (da_text_data_open(o->text, VALIDATION_PART, o->sequence, &s->text) != DA_OK) {
        return cli_fail(COMMAND, "--text: %s", da_last_error_message());
    }
    code = o->resume ? resume(o, s) : begin(o, s);
    if (code != CLI_CONTINUE) {
        return code;
    }
    s->log = o->log ? fopen(o->log, o->resume ? "a" : "w") : NULL;
    if (o->log && !s->log) {
        return cli_fail(COMMAND, "--log: %s cannot be written", o->log);
    }
    size_t count = (size_t)(o->batch * o->sequence);
    s->tokens = calloc(count, sizeof *s->tokens);
    s->targets = calloc(count, sizeof *s->targets);
    if (!s->tokens || !s->targets || da_longnet_gradients_create(s->model, &s->gradients) != DA_OK) {
        return cli_fail(COMMAND, "memory is short");
    }
    da_schedule_init(&s->schedule);
    s->schedule.peak = o->rate.value;
    s->schedule.last = o->rate.value / 10;
    s->schedule.warmup_steps = o->warmup;
    s->schedule.total_steps = o->steps;
    da_longnet_batch_init(&s->batch);
    s->batch.tokens = s->tokens;
    s->batch.targets = s->targets;
    return CLI_CONTINUE;
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

static bool keep_going(int64_t finished, int64_t total, void *user) {
    return interrupt_signal() == 0;
}

/* Bits per byte of the first windows of the validation part; NAN where there is none. */
static da_status validate(const train_options *o, train_state *s, double *bits) {
    double sum = 0;
    int64_t bytes = 0, count;
    s->batch.batch = 1;
    s->batch.training = false;
    for (int64_t k = 0; k < VALIDATION_WINDOWS; k++) {
        count = da_text_data_validation(&s->text, k, o->sequence, s->tokens, s->targets);
        double loss;
        if (count == 0) {
            break;
        }
        s->batch.n = count;
        da_status status = da_longnet_loss(s->model, &s->batch, &loss);
        if (status != DA_OK) {
            return status;
        }
        sum += loss * (double)count;
        bytes += count;
    }
    *bits = bytes > 0 ? sum / (double)bytes / log(2) : NAN;
    return DA_OK;
}

static da_status step(const train_options *o, train_state *s, int64_t number, double *loss) {
    da_text_data_sample(&s->text, (uint64_t)o->seed, number, o->batch, o->sequence, s->tokens, s->targets);
    s->batch.batch = o->batch;
    s->batch.n = o->sequence;
    s->batch.training = true;
    s->batch.dropout_seed = (uint64_t)o->seed + (uint64_t)number;
    da_longnet_gradients_zero(s->gradients);
    da_status status = da_longnet_backward(s->model, &s->batch, s->gradients, loss);
    return status == DA_OK ? da_adamw_step(s->adamw, s->gradients, da_schedule_rate(&s->schedule, number), NULL)
                           : status;
}

static da_status save(const train_options *o, const train_state *s) {
    char text[256];
    const da_note notes[] = {{"training", fingerprint(o, text)}};
    return da_longnet_save(o->out, s->model, s->adamw, notes, 1);
}

static void report(const train_options *o, const train_state *s, int64_t number, double loss, double seconds,
                   double bits) {
    int64_t tokens = o->batch * o->sequence;
    if (!o->quiet) {
        printf("step %" PRId64 "  loss %.4f  %.0f tokens/s", number, loss, (double)tokens / seconds);
        printf(isnan(bits) ? "\n" : "  validation %.4f bits/byte\n", bits);
        fflush(stdout);
    }
    if (s->log) {
        fprintf(s->log, "{\"step\": %" PRId64 ", \"tokens\": %" PRId64 ", \"loss\": %.9g, \"tokens_per_second\": %.6g",
                number, number * tokens, loss, (double)tokens / seconds);
        fprintf(s->log, isnan(bits) ? "}\n" : ", \"validation_bits_per_byte\": %.9g}\n", bits);
        fflush(s->log);
    }
}

/* One step with what follows it. */
static da_status advance(const train_options *o, train_state *s, int64_t number) {
    double loss, start = cli_now(), bits = NAN;
    da_status status = step(o, s, number, &loss);
    double seconds = cli_now() - start;
    int64_t done = number + 1;
    bool last = done == o->steps, validates = o->validate_every > 0 && (last || done % o->validate_every == 0);
    if (status == DA_OK && (last || (o->checkpoint_every > 0 && done % o->checkpoint_every == 0))) {
        status = save(o, s);
    }
    if (status == DA_OK && validates) {
        status = validate(o, s, &bits);
    }
    if (status == DA_OK) {
        report(o, s, done, loss, seconds, bits);
    }
    return status;
}

static int train(const train_options *o, train_state *s) {
    progress bar = progress_start("training", !o->quiet);
    da_status status = DA_OK;
    interrupt_record();
    s->batch.progress = keep_going;
    for (int64_t k = da_adamw_steps(s->adamw); k < o->steps && status == DA_OK; k++) {
        status = advance(o, s, k);
        progress_update(&bar, k + 1, o->steps);
    }
    progress_end(&bar);
    interrupt_restore();
    if (interrupt_signal() != 0) {
        cli_fail(COMMAND, "interrupted; the last checkpoint stays, see --checkpoint-every and --resume");
        return 128 + interrupt_signal();
    }
    if (s->log && ferror(s->log)) {
        return cli_fail(COMMAND, "--log: %s could not be written", o->log);
    }
    return status == DA_OK ? CLI_OK : cli_fail(COMMAND, "%s", da_last_error_message());
}

static int run(train_options *o) {
    train_state s = {0};
    if (!o->text || !o->out) {
        return cli_usage(COMMAND, "--%s: missing; give the path of a file", o->text ? "out" : "text");
    }
    if (!(o->rate.value > 0)) {
        return cli_usage(COMMAND, "--lr: %g; allowed: above 0", o->rate.value);
    }
    int code = prepare(o, &s);
    if (code == CLI_CONTINUE) {
        code = train(o, &s);
    }
    if (s.log) {
        fclose(s.log);
    }
    free(s.tokens);
    free(s.targets);
    da_adamw_free(s.adamw);
    da_longnet_gradients_free(s.gradients);
    da_longnet_free(s.model);
    da_context_free(s.context);
    da_text_data_close(&s.text);
    return code;
}

int command_train(int argc, char **argv) {
    train_options o = {.steps = 100,
                       .sequence = 2048,
                       .batch = 1,
                       .embed_dim = 128,
                       .layers = 4,
                       .heads = 4,
                       .seed = 1,
                       .warmup = 20,
                       .validate_every = 50,
                       .checkpoint_every = 50,
                       .rate = {true, 1e-3}};
    const int64_t any = INT64_MAX, most = (int64_t)1 << 30;
    const cli_option training[] = {
        {"text", "FILE", "plain text; its last twentieth is for validation", cli_read_text, &o.text, 0, 0},
        {"out", "FILE", "checkpoint (.safetensors): model and optimiser", cli_read_text, &o.out, 0, 0},
        {"resume", NULL, "go on from the checkpoint --out, with the same options", cli_read_flag, &o.resume, 0, 0},
        {"steps", "N", "steps of training (default 100)", cli_read_integer, &o.steps, 1, any},
        {"sequence", "N", "bytes of a sequence (2048)", cli_read_integer, &o.sequence, 1, most},
        {"batch", "N", "sequences of a step (1)", cli_read_integer, &o.batch, 1, 4096},
        {"lr", "X", "peak of the learning rate (0.001)", cli_read_number, &o.rate, 0, 0},
        {"warmup", "N", "steps up to the peak (20); a cosine follows", cli_read_integer, &o.warmup, 0, any},
        {"seed", "N", "of parameters and windows (1)", cli_read_integer, &o.seed, 0, any},
        {"validate-every", "N", "steps (50); 0: never", cli_read_integer, &o.validate_every, 0, any},
        {"checkpoint-every", "N", "steps (50); 0: at the end only", cli_read_integer, &o.checkpoint_every, 0, any},
        {"log", "FILE", "a line of JSON per step", cli_read_text, &o.log, 0, 0},
        {"quiet", NULL, "no report, no progress bar", cli_read_flag, &o.quiet, 0, 0},
    };
    const cli_option size[] = {
        {"embed-dim", "N", "width (128)", cli_read_integer, &o.embed_dim, 1, 65536},
        {"layers", "N", "layers (4)", cli_read_integer, &o.layers, 1, 1024},
        {"heads", "N", "heads (4)", cli_read_integer, &o.heads, 1, 65536},
    };
    cli_option shared[CONFIGURATION_OPTION_COUNT], computing[MACHINE_OPTION_COUNT];
    configuration_options(&o.configuration, shared);
    machine_options(&o.machine, computing);
    const cli_group groups[] = {{"training", training, CLI_COUNT(training)},
                                {"model", size, CLI_COUNT(size)},
                                {"attention (always causal; --dtype f32 or f64)", shared, CLI_COUNT(shared)},
                                {"computing", computing, CLI_COUNT(computing)}};
    const cli_command command = {
        COMMAND,
        "--text FILE --out MODEL.safetensors --segments A,B,.. --rates A,B,.. [OPTIONS]",
        "Trains a byte-level language model. A killed run resumes to the same parameters, to the bit.",
        "  dilated-attention train --text book.txt --out m.safetensors --segments 512,1024,2048 --rates 1,2,4",
        groups,
        CLI_COUNT(groups)};
    int code = cli_parse(&command, argc, argv);
    return code == CLI_CONTINUE ? run(&o) : code;
}
