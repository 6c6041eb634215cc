/* generate: text from a model that `train` made. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/dropout.h"
#include "commands.h"
#include "dilated_attention_nn.h"
#include "machine.h"

#define COMMAND "generate"
#define BYTES 256

typedef struct generate_options {
    machine machine;
    const char *model, *prompt;
    int64_t length, top, seed;
    cli_number temperature;
} generate_options;

/* Logits become weights of the `top` largest, at a temperature; 0: the largest alone. */
static void weigh(const generate_options *o, double logits[BYTES]) {
    double sorted[BYTES];
    memcpy(sorted, logits, sizeof sorted);
    for (int k = 1; k < BYTES; k++) {
        double value = sorted[k];
        int at = k;
        for (; at > 0 && sorted[at - 1] < value; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = value;
    }
    bool greedy = o->temperature.value == 0;
    double least = sorted[(greedy ? 1 : o->top) - 1];
    for (int v = 0; v < BYTES; v++) {
        bool kept = logits[v] >= least;
        logits[v] = !kept ? 0 : greedy ? 1 : exp((logits[v] - sorted[0]) / o->temperature.value);
    }
}

/* A byte by its weight; the number is a function of seed and place. */
static int32_t draw(const generate_options *o, int64_t place, const double weights[BYTES]) {
    uint32_t key = da_philox_2x32((uint32_t)o->seed, (uint32_t)(o->seed >> 32), 0);
    double sum = 0, at = (da_philox_2x32(key, (uint32_t)place, (uint32_t)(place >> 32)) + 0.5) * 0x1p-32;
    for (int v = 0; v < BYTES; v++) {
        sum += weights[v];
    }
    at *= sum;
    int32_t last = 0;
    for (int32_t v = 0; v < BYTES; v++) {
        if (weights[v] > 0) {
            last = v;
            at -= weights[v];
            if (at < 0) {
                break;
            }
        }
    }
    return last;
}

static da_status write_text(const generate_options *o, da_longnet_decoder *decoder, bool is_f64) {
    double logits[BYTES];
    float logits32[BYTES];
    int32_t tokens[4096];
    int64_t count = (int64_t)strlen(o->prompt);
    for (int64_t k = 0; k < count; k++) {
        tokens[k] = (unsigned char)o->prompt[k];
    }
    for (int64_t k = 0; k < o->length; k++) {
        da_status status = da_longnet_decoder_feed(decoder, tokens, count, is_f64 ? (void *)logits : logits32);
        if (status != DA_OK) {
            return status;
        }
        for (int v = 0; v < BYTES && !is_f64; v++) {
            logits[v] = (double)logits32[v];
        }
        weigh(o, logits);
        tokens[0] = draw(o, k, logits);
        count = 1;
        putchar(tokens[0]);
        fflush(stdout);
    }
    putchar('\n');
    return DA_OK;
}

static int run(const generate_options *o) {
    da_context *context = NULL;
    da_longnet *model = NULL;
    da_longnet_decoder *decoder = NULL;
    da_longnet_config config;
    da_multihead_config multihead;
    if (!o->model) {
        return cli_usage(COMMAND, "--model: missing; give a checkpoint that train made");
    }
    if (o->temperature.value < 0 || strlen(o->prompt) > 4096) {
        return cli_usage(COMMAND, o->temperature.value < 0 ? "--temperature: below 0; allowed: 0 and above"
                                                           : "--prompt: longer than 4096 bytes");
    }
    int code = machine_context(&o->machine, COMMAND, NULL, NULL, &context);
    if (code != CLI_CONTINUE) {
        return code;
    }
    da_longnet_config_init(&config);
    da_multihead_config_init(&multihead);
    da_status status = da_longnet_load(context, "auto", o->model, &model);
    if (status == DA_OK) {
        status = da_longnet_get_config(model, &config, &multihead, NULL);
    }
    if (status == DA_OK && config.vocab_size != BYTES) {
        status = da_report(DA_ERROR_FORMAT, "%s: no model of bytes: its vocabulary is not 256", o->model);
    }
    if (status == DA_OK) {
        status = da_longnet_decoder_create(model, o->length + (int64_t)strlen(o->prompt), &decoder);
    }
    if (status == DA_OK) {
        status = write_text(o, decoder, multihead.dtype == DA_F64);
    }
    da_longnet_decoder_free(decoder);
    da_longnet_free(model);
    da_context_free(context);
    return status == DA_OK ? CLI_OK : cli_fail(COMMAND, "%s", da_last_error_message());
}

int command_generate(int argc, char **argv) {
    generate_options o = {.prompt = "\n", .length = 200, .top = BYTES, .seed = 1, .temperature = {true, 0.8}};
    const cli_option options[] = {
        {"model", "FILE", "checkpoint that train made", cli_read_text, &o.model, 0, 0},
        {"prompt", "TEXT", "what the text begins with; not printed (default: a new line)", cli_read_text, &o.prompt, 0,
         0},
        {"length", "N", "bytes to write (200)", cli_read_integer, &o.length, 1, (int64_t)1 << 24},
        {"temperature", "X", "0: always the likeliest byte (0.8)", cli_read_number, &o.temperature, 0, 0},
        {"top-k", "N", "only the N likeliest bytes (256)", cli_read_integer, &o.top, 1, BYTES},
        {"seed", "N", "of the draws (1)", cli_read_integer, &o.seed, 0, INT64_MAX},
    };
    cli_option computing[MACHINE_OPTION_COUNT];
    machine_options(&o.machine, computing);
    const cli_group groups[] = {{"text", options, CLI_COUNT(options)}, {"computing", computing, CLI_COUNT(computing)}};
    const cli_command command = {COMMAND,
                                 "--model MODEL.safetensors [OPTIONS]",
                                 "Writes text, byte by byte; keys and values of earlier bytes are kept.",
                                 "  dilated-attention generate --model m.safetensors --prompt 'In the beginning'",
                                 groups,
                                 CLI_COUNT(groups)};
    int code = cli_parse(&command, argc, argv);
    return code == CLI_CONTINUE ? run(&o) : code;
}
