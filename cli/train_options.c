#include "train_options.h"

#include "drawing/picture.h"

#define COMMAND "train"

CLI_NAME_READER(read_position, da_position, da_position_from_name)
CLI_NAME_READER(read_activation, da_activation, da_activation_from_name)

static int check(const train_options *options) {
    if (!options->text || !options->out) {
        return cli_usage(COMMAND, "--%s: missing; give the path of a file", options->text ? "out" : "text");
    }
    if (!(options->rate.value > 0)) {
        return cli_usage(COMMAND, "--lr: %g; allowed: above 0", options->rate.value);
    }
    if (options->plot && !options->log) {
        return cli_usage(COMMAND, "--plot: draws what --log FILE records; give both");
    }
    if (options->plot && !picture_path_is_known(options->plot)) {
        return cli_usage(COMMAND, "--plot \"%s\": a picture's name ends in .png or .svg", options->plot);
    }
    return CLI_CONTINUE;
}

int train_options_parse(int argc, char **argv, train_options *o) {
    *o = (train_options){.steps = 100,
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
        {"text", "FILE", "plain text; its last twentieth is for validation", cli_read_text, &o->text, 0, 0},
        {"out", "FILE", "checkpoint (.safetensors): model and optimiser", cli_read_text, &o->out, 0, 0},
        {"resume", NULL, "go on from the checkpoint --out, with the same options", cli_read_flag, &o->resume, 0, 0},
        {"steps", "N", "steps of training (default 100)", cli_read_integer, &o->steps, 1, any},
        {"sequence", "N", "bytes of a sequence (2048)", cli_read_integer, &o->sequence, 1, most},
        {"batch", "N", "sequences of a step (1)", cli_read_integer, &o->batch, 1, 4096},
        {"lr", "X", "peak of the learning rate (0.001)", cli_read_number, &o->rate, 0, 0},
        {"warmup", "N", "steps up to the peak (20); a cosine follows", cli_read_integer, &o->warmup, 0, any},
        {"weight-decay", "X", "of matrices, by AdamW (0.1)", cli_read_number, &o->weight_decay, 0, 0},
        {"clip", "X", "largest norm of all gradients together (1); 0: any", cli_read_number, &o->clip, 0, 0},
        {"seed", "N", "of parameters, windows and dropout (1)", cli_read_integer, &o->seed, 0, any},
        {"validate-every", "N", "steps (50); 0: never", cli_read_integer, &o->validate_every, 0, any},
        {"checkpoint-every", "N", "steps (50); 0: at the end only", cli_read_integer, &o->checkpoint_every, 0, any},
        {"log", "FILE", "a line of JSON per step", cli_read_text, &o->log, 0, 0},
        {"plot", "FILE", "draw the log at the end, .png or .svg", cli_read_text, &o->plot, 0, 0},
        {"quiet", NULL, "no report, no progress bar", cli_read_flag, &o->quiet, 0, 0},
    };
    const cli_option model[] = {
        {"embed-dim", "N", "width (128)", cli_read_integer, &o->embed_dim, 1, 65536},
        {"layers", "N", "layers (4)", cli_read_integer, &o->layers, 1, 1024},
        {"heads", "N", "heads (4)", cli_read_integer, &o->heads, 1, 65536},
        {"ffn-dim", "N", "width inside the feed-forward (4 times --embed-dim)", cli_read_integer, &o->ffn_dim, 1, most},
        {"activation", "A", "gelu (default) or relu", read_activation, &o->activation, 0, 0},
        {"position", "P", "rope (default), xpos or none", read_position, &o->position, 0, 0},
        {"dropout", "X", "part of the attention's weights (0)", cli_read_number, &o->dropout, 0, 0},
        {"untied", NULL, "an output matrix of its own, not the embedding's", cli_read_flag, &o->untied, 0, 0},
    };
    cli_option shared[CONFIGURATION_OPTION_COUNT], computing[MACHINE_OPTION_COUNT];
    configuration_options(&o->configuration, shared);
    machine_options(&o->machine, computing);
    const cli_group groups[] = {
        {"training", training, CLI_COUNT(training)},
        {"model", model, CLI_COUNT(model)},
        {"attention (always causal; --dtype f32 or f64; dense over windows of W: --segments W --rates 1)", shared,
         CLI_COUNT(shared)},
        {"computing", computing, CLI_COUNT(computing)}};
    const cli_command command = {
        COMMAND,
        "--text FILE --out MODEL.safetensors --segments A,B,.. --rates A,B,.. [OPTIONS]",
        "Trains a byte-level language model. An interrupted run leaves a checkpoint; it resumes, and so does a killed\n"
        "one from its last checkpoint, to the same parameters, to the bit.",
        "  dilated-attention train --text book.txt --out m.safetensors --segments 512,1024,2048 --rates 1,2,4",
        groups,
        CLI_COUNT(groups)};
    int code = cli_parse(&command, argc, argv);
    return code == CLI_CONTINUE ? check(o) : code;
}

int train_options_configs(const train_options *o, train_configs *configs) {
    int code = configuration_finish(&o->configuration, COMMAND, &configs->attention);
    if (code != CLI_CONTINUE) {
        return code;
    }
    da_longnet_config_init(&configs->model);
    da_multihead_config_init(&configs->multihead);
    da_adamw_config_init(&configs->adamw);
    configs->model.layers = o->layers;
    configs->model.ffn_dim = o->ffn_dim;
    configs->model.tied_output = !o->untied;
    configs->multihead.embed_dim = o->embed_dim;
    configs->multihead.num_heads = o->heads;
    configs->multihead.position = DA_POSITION_ROPE;
    configs->multihead.dtype = configs->attention.dtype == DA_DTYPE_ANY ? DA_F32 : configs->attention.dtype;
    configs->attention.causal = true;
    configs->attention.dropout = o->dropout.value;
    /* The names were checked when they were read. */
    if (o->activation) {
        (void)da_activation_from_name(o->activation, &configs->model.activation);
    }
    if (o->position) {
        (void)da_position_from_name(o->position, &configs->multihead.position);
    }
    if (o->weight_decay.is_set) {
        configs->adamw.weight_decay = o->weight_decay.value;
    }
    if (o->clip.is_set) {
        configs->adamw.clip = o->clip.value;
    }
    return CLI_CONTINUE;
}
