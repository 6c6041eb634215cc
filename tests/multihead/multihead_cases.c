#include "multihead/multihead_cases.h"

multihead_case_file multihead_case_file_open(void) {
    return packed_file_open("DA_MULTIHEAD_CASES_FILE", DA_DEFAULT_MULTIHEAD_CASES_FILE, "DAMULTI1");
}

void multihead_case_file_close(multihead_case_file *file) {
    packed_file_close(file);
}

uint64_t take_module_options(packed_file *file, da_multihead_config *config, da_attention_config *attention) {
    da_multihead_config_init(config);
    da_attention_config_init(attention);
    config->embed_dim = packed_file_integer(file);
    config->num_heads = packed_file_integer(file);
    config->kv_heads = packed_file_integer(file);
    config->bias = packed_file_integer(file) != 0;
    config->layer_norm = packed_file_integer(file) != 0;
    config->qk_layer_norm = packed_file_integer(file) != 0;
    config->position = (da_position)packed_file_integer(file);
    config->rotary_layout = (da_rotary_layout)packed_file_integer(file);
    attention->causal = packed_file_integer(file) != 0;
    attention->window = packed_file_integer(file);
    attention->mixing = (da_mixing)packed_file_integer(file);
    attention->offset_rule = (da_offset_rule)packed_file_integer(file);
    attention->tail_rule = (da_tail_rule)packed_file_integer(file);
    attention->overlap = (da_overlap)packed_file_integer(file);
    attention->scale_is_set = packed_file_integer(file) != 0;
    return (uint64_t)packed_file_integer(file);
}

void take_module_patterns(packed_file *file, da_attention_config *attention) {
    attention->segment_count = attention->rate_count = (size_t)packed_file_integer(file);
    for (size_t p = 0; p < attention->segment_count; p++) {
        attention->segment_lengths[p] = packed_file_integer(file);
    }
    for (size_t p = 0; p < attention->rate_count; p++) {
        attention->dilation_rates[p] = packed_file_integer(file);
    }
}

void take_module_numbers(packed_file *file, da_multihead_config *config, da_attention_config *attention) {
    case_array numbers = packed_file_array(file);
    config->layer_norm_eps = numbers.values[0];
    config->rope_base = numbers.values[1];
    config->xpos_scale_base = numbers.values[2];
    attention->scale = numbers.values[3];
    attention->dropout = numbers.values[4];
}

/* In the order of encode() in generate_multihead_cases.py. */
static void take_words(multihead_case_file *file, multihead_case *out) {
    (void)packed_file_integer(file);
    da_dtype dtype = (da_dtype)packed_file_integer(file);
    out->batch = packed_file_integer(file);
    out->n = packed_file_integer(file);
    out->seed = take_module_options(file, &out->config, &out->attention);
    out->config.dtype = dtype;
    for (int k = 0; k < 3; k++) {
        out->input_of[k] = (int)packed_file_integer(file);
    }
    take_module_patterns(file, &out->attention);
}

bool multihead_case_next(multihead_case_file *file, multihead_case *out) {
    if (!packed_file_begin_case(file)) {
        return false;
    }
    *out = (multihead_case){.name = packed_file_text(file, 32)};
    take_words(file, out);
    take_module_numbers(file, &out->config, &out->attention);
    out->key_lengths = packed_file_array(file);
    out->key_mask = packed_file_array(file);
    for (int k = 0; k < 3; k++) {
        out->inputs[k] = packed_file_array(file);
    }
    out->out = packed_file_array(file);
    out->bound = packed_file_array(file);
    out->grad_out = packed_file_array(file);
    for (int k = 0; k < 3; k++) {
        out->grad_inputs[k] = packed_file_array(file);
    }
    out->input_tolerances = packed_file_array(file);
    out->parameter_count = packed_file_integer(file);
    for (int64_t k = 0; k < out->parameter_count; k++) {
        out->parameters[k].name = packed_file_text(file, 32);
        out->parameters[k].values = packed_file_array(file);
        out->parameters[k].gradient = packed_file_array(file);
        out->parameters[k].tolerance = packed_file_array(file);
    }
    return true;
}
