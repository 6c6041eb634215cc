#include "model/longnet_cases.h"

#include "multihead/multihead_cases.h"

enum { NAME_BYTES = 64 };

packed_file longnet_cases_open(void) {
    return packed_file_open("DA_LONGNET_CASES_FILE", DA_DEFAULT_LONGNET_CASES_FILE, "DALNGNT1");
}

static void take_config(packed_file *file, longnet_case *out) {
    da_longnet_config_init(&out->config);
    da_dtype dtype = (da_dtype)packed_file_integer(file);
    out->batch = packed_file_integer(file);
    out->n = packed_file_integer(file);
    out->config.vocab_size = packed_file_integer(file);
    out->config.layers = packed_file_integer(file);
    out->config.ffn_dim = packed_file_integer(file);
    out->config.activation = (da_activation)packed_file_integer(file);
    out->config.tied_output = packed_file_integer(file) != 0;
    out->seed = take_module_options(file, &out->multihead, &out->attention);
    out->multihead.dtype = dtype;
    take_module_patterns(file, &out->attention);
    take_module_numbers(file, &out->multihead, &out->attention);
}

bool longnet_case_next(packed_file *file, longnet_case *out) {
    if (!packed_file_begin_case(file)) {
        return false;
    }
    *out = (longnet_case){.name = packed_file_text(file, NAME_BYTES)};
    take_config(file, out);
    case_array numbers = packed_file_array(file);
    out->config.norm_eps = numbers.values[0];
    out->loss = numbers.values[1];
    out->loss_tolerance = numbers.values[2];
    out->tokens = packed_file_array(file);
    out->targets = packed_file_array(file);
    out->parameter_count = packed_file_integer(file);
    for (int64_t k = 0; k < out->parameter_count; k++) {
        out->parameters[k].name = packed_file_text(file, NAME_BYTES);
        out->parameters[k].values = packed_file_array(file);
        out->parameters[k].gradient = packed_file_array(file);
        out->parameters[k].tolerance = packed_file_array(file);
    }
    return true;
}
