/* train: a byte-level language model from plain text. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "commands.h"
#include "interrupt.h"
#include "model/checkpoint.h"
#include "model/text_data.h"
#include "plot.h"
#include "progress.h"
#include "train_log.h"
#include "train_options.h"

#define COMMAND "train"
#define VALIDATION_PART 0.05
#define VALIDATION_WINDOWS 4
#define FINGERPRINT_BYTES 256

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
    int64_t saved; /* steps in the checkpoint; -1: none was written */
} train_state;

/* ---- setting up -------------------------------------------------------------------------------------------------- */

/* What must be the same, beside the configurations, for a training to go on as if it had not stopped. */
static const char *fingerprint(const train_options *o, const train_state *s, char text[FINGERPRINT_BYTES]) {
    snprintf(text, FINGERPRINT_BYTES,
             "steps %" PRId64 ", sequence %" PRId64 ", batch %" PRId64 ", warmup %" PRId64 ", seed %" PRId64
             ", lr %.17g, a text of %" PRId64 " bytes with the hash %016" PRIx64,
             o->steps, o->sequence, o->batch, o->warmup, o->seed, o->rate.value, (int64_t)s->text.mapping.bytes,
             da_text_data_hash(&s->text));
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

static int begin(const train_options *o, train_state *s) {
    train_configs configs;
    int code = train_options_configs(o, &configs);
    if (code != CLI_CONTINUE) {
        return code;
    }
    da_status status = da_longnet_create(s->context, trainable(s->context), &configs.model, &configs.multihead,
                                         &configs.attention, &s->model);
    if (status == DA_OK) {
        status = da_longnet_initialise(s->model, (uint64_t)o->seed);
    }
    if (status == DA_OK) {
        status = da_adamw_create(s->model, &configs.adamw, &s->adamw);
    }
    return status == DA_OK ? CLI_CONTINUE : cli_refused(COMMAND, status);
}

static void drop_model(train_state *s) {
    da_adamw_free(s->adamw);
    da_longnet_free(s->model);
    s->adamw = NULL;
    s->model = NULL;
}

/* The checkpoint in place of the model that the options describe. */
static int resume(const train_options *o, train_state *s) {
    char ours[FINGERPRINT_BYTES], theirs[2 * FINGERPRINT_BYTES];
    da_status status = da_checkpoint_check_same(o->out, s->model, s->adamw);
    if (status == DA_ERROR_INVALID_ARGUMENT) {
        return cli_usage(COMMAND, "--resume: %s", da_last_error_message());
    }
    if (status == DA_OK) {
        status = da_longnet_note(o->out, "training", theirs, sizeof theirs);
    }
    if (status == DA_OK && strcmp(fingerprint(o, s, ours), theirs) != 0) {
        return cli_usage(COMMAND, "--resume: %s was trained with %s; these options say %s", o->out, theirs, ours);
    }
    drop_model(s);
    if (status == DA_OK) {
        status = da_longnet_load(s->context, trainable(s->context), o->out, &s->model);
    }
    if (status == DA_OK) {
        status = da_adamw_load(s->model, o->out, &s->adamw);
    }
    s->saved = da_adamw_steps(s->adamw);
    return status == DA_OK ? CLI_CONTINUE : cli_fail(COMMAND, "--resume: %s", da_last_error_message());
}

static int prepare(const train_options *o, train_state *s) {
    int code = machine_context(&o->machine, COMMAND, NULL, NULL, &s->context);
    if (code != CLI_CONTINUE) {
        return code;
    }
    if (da_text_data_open(o->text, VALIDATION_PART, o->sequence, &s->text) != DA_OK) {
        return cli_fail(COMMAND, "--text: %s", da_last_error_message());
    }
    code = begin(o, s);
    if (code == CLI_CONTINUE && o->resume) {
        code = resume(o, s);
    }
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

static da_status save(const train_options *o, train_state *s) {
    char text[FINGERPRINT_BYTES];
    const da_note notes[] = {{"training", fingerprint(o, s, text)}};
    da_status status = da_longnet_save(o->out, s->model, s->adamw, notes, 1);
    s->saved = status == DA_OK ? da_adamw_steps(s->adamw) : s->saved;
    return status;
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
        const train_log_point point = {number, number * tokens, loss, (double)tokens / seconds, bits};
        train_log_write(s->log, &point);
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

/* A step that a signal cut short changed nothing, so that the model is that of the steps before. */
static int stop(const train_options *o, train_state *s) {
    int64_t steps = da_adamw_steps(s->adamw);
    if (s->saved != steps && save(o, s) != DA_OK) {
        cli_fail(COMMAND, "interrupted after step %" PRId64 "; no checkpoint of it: %s", steps,
                 da_last_error_message());
    } else {
        cli_fail(COMMAND, "interrupted after step %" PRId64 ", which %s holds; --resume goes on", steps, o->out);
    }
    return 128 + interrupt_signal();
}

static int train(const train_options *o, train_state *s) {
    progress bar = progress_start("training", !o->quiet);
    da_status status = DA_OK;
    interrupt_record();
    s->batch.progress = keep_going;
    for (int64_t k = da_adamw_steps(s->adamw); k < o->steps && status == DA_OK && interrupt_signal() == 0; k++) {
        status = advance(o, s, k);
        progress_update(&bar, k + 1, o->steps);
    }
    progress_end(&bar);
    bool cut_short = da_adamw_steps(s->adamw) < o->steps && (status == DA_OK || status == DA_ERROR_CANCELLED);
    int code = cut_short ? stop(o, s) : CLI_OK;
    interrupt_restore();
    if (code != CLI_OK) {
        return code;
    }
    if (s->log && ferror(s->log)) {
        return cli_fail(COMMAND, "--log: %s could not be written", o->log);
    }
    return status == DA_OK || status == DA_ERROR_CANCELLED ? CLI_OK : cli_fail(COMMAND, "%s", da_last_error_message());
}

static void close_all(train_state *s) {
    if (s->log) {
        fclose(s->log);
    }
    free(s->tokens);
    free(s->targets);
    da_longnet_gradients_free(s->gradients);
    drop_model(s);
    da_context_free(s->context);
    da_text_data_close(&s->text);
}

int command_train(int argc, char **argv) {
    train_options options;
    int code = train_options_parse(argc, argv, &options);
    if (code != CLI_CONTINUE) {
        return code;
    }
    train_state state = {.saved = -1};
    code = prepare(&options, &state);
    if (code == CLI_CONTINUE) {
        code = train(&options, &state);
    }
    close_all(&state);
    return code == CLI_OK && options.plot ? plot_logs(COMMAND, options.plot, &options.log, &options.log, 1) : code;
}
