/* info: this machine, and what each implementation is. */
#include <stdio.h>

#include "commands.h"
#include "machine.h"
#include "output.h"

typedef struct bit_name {
    uint32_t bit;
    const char *name;
} bit_name;

static const bit_name cpu_features[] = {
    {DA_CPU_AVX2, "avx2"},
    {DA_CPU_FMA, "fma"},
    {DA_CPU_F16C, "f16c"},
    {DA_CPU_AVX512, "avx512"},
    {DA_CPU_AVX512_BF16, "avx512_bf16"},
    {DA_CPU_AVX512_FP16, "avx512_fp16"},
    {DA_CPU_AMX_BF16, "amx_bf16"},
    {DA_CPU_NEON, "neon"},
    {DA_CPU_SVE, "sve"},
};

static const bit_name options_taken[] = {
    {DA_FEATURE_CAUSAL, "causal"},
    {DA_FEATURE_WINDOW, "window"},
    {DA_FEATURE_KEY_PADDING, "key_padding"},
    {DA_FEATURE_GROUPED_QUERIES, "grouped_queries"},
    {DA_FEATURE_LOGSUMEXP, "logsumexp"},
    {DA_FEATURE_HEAD_GROUPS, "head_groups"},
    {DA_FEATURE_BLOCK_OFFSETS, "block_offsets"},
    {DA_FEATURE_ZERO_PAD, "zero_pad"},
    {DA_FEATURE_OVERLAP_ONCE, "overlap_once"},
    {DA_FEATURE_DROPOUT, "dropout"},
    {DA_FEATURE_QUERY_RANGE, "query_range"},
};

static const bit_name data_types[] = {
    {DA_DTYPE_BIT(DA_F32), "f32"},
    {DA_DTYPE_BIT(DA_F64), "f64"},
    {DA_DTYPE_BIT(DA_BF16), "bf16"},
    {DA_DTYPE_BIT(DA_F16), "f16"},
};

static json_t *json_bits(uint32_t bits, const bit_name *names, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        if (bits & names[i].bit) {
            json_array_append_new(array, json_string(names[i].name));
        }
    }
    return array;
}

static void print_bits(uint32_t bits, const bit_name *names, size_t count) {
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        if (bits & names[i].bit) {
            printf("%s%s", any ? " " : "", names[i].name);
            any = true;
        }
    }
    printf("%s\n", any ? "" : "none");
}

/* ------------------------------------------------------------------------------------------------------------------ */

static json_t *json_gpus(const da_hardware *hardware) {
    json_t *gpus = json_array();
    for (int i = 0; i < hardware->gpu_count; i++) {
        const da_gpu *gpu = &hardware->gpus[i];
        json_array_append_new(gpus, json_pack("{s:s, s:[i,i], s:I}", "name", gpu->name, "compute_capability",
                                              gpu->compute_major, gpu->compute_minor, "memory_bytes",
                                              (json_int_t)gpu->memory));
    }
    return gpus;
}

static json_t *json_hardware(const da_context *context) {
    const da_hardware *hardware = da_context_hardware(context);
    return json_pack("{s:s, s:s, s:i, s:o, s:I, s:I, s:I, s:I, s:o, s:s, s:b, s:b, s:b}", "cpu", hardware->cpu_name,
                     "architecture", hardware->architecture, "cores", hardware->cores, "cpu_features",
                     json_bits(hardware->cpu_features, cpu_features, CLI_COUNT(cpu_features)), "l1_cache_bytes",
                     (json_int_t)hardware->l1_cache, "l2_cache_bytes", (json_int_t)hardware->l2_cache, "l3_cache_bytes",
                     (json_int_t)hardware->l3_cache, "memory_bytes", (json_int_t)hardware->memory, "gpus",
                     json_gpus(hardware), "gpu_note", hardware->gpu_note, "flash_attention_3",
                     hardware->flash_attention_3, "flash_attention_2", hardware->flash_attention_2, "xformers",
                     hardware->xformers);
}

static json_t *json_implementation(const da_implementation_info *info) {
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:b, s:b, s:b, s:s}", "name", info->name, "description",
                     info->description, "best_for", info->best_for, "memory", info->memory, "options",
                     json_bits(info->features, options_taken, CLI_COUNT(options_taken)), "dtypes",
                     json_bits(info->dtypes, data_types, CLI_COUNT(data_types)), "backward", info->backward, "built_in",
                     info->built_in, "available", info->available, "reason", info->reason);
}

static void print_cache(const char *name, uint64_t bytes) {
    char text[CLI_BYTES_TEXT];
    if (bytes != 0) {
        printf("%s %s  ", name, cli_bytes((double)bytes, text));
    }
}

static void print_hardware(const da_context *context) {
    const da_hardware *hardware = da_context_hardware(context);
    char memory[CLI_BYTES_TEXT];
    printf("dilated-attention %s\n\nmachine\n", da_version());
    printf("  cpu              %s (%s)\n", hardware->cpu_name[0] != '\0' ? hardware->cpu_name : "unknown",
           hardware->architecture);
    printf("  cores            %d\n", hardware->cores);
    printf("  cpu features     ");
    print_bits(hardware->cpu_features, cpu_features, CLI_COUNT(cpu_features));
    printf("  caches           ");
    print_cache("L1", hardware->l1_cache);
    print_cache("L2", hardware->l2_cache);
    print_cache("L3", hardware->l3_cache);
    printf("\n  memory           %s\n", cli_bytes((double)hardware->memory, memory));
    printf("  gpus             %d (%s)\n", hardware->gpu_count, hardware->gpu_note);
    for (int i = 0; i < hardware->gpu_count; i++) {
        const da_gpu *gpu = &hardware->gpus[i];
        printf("                   %s, compute capability %d.%d, %s\n", gpu->name, gpu->compute_major,
               gpu->compute_minor, cli_bytes((double)gpu->memory, memory));
    }
    printf("  instruction set  %s\n", da_isa_name(da_context_isa(context)));
    printf("  threads          %d\n", da_context_threads(context));
}

static void print_implementation(const da_implementation_info *info) {
    printf("  %s: %s\n", info->name, info->description);
    printf("    available      %s%s\n", info->available ? "yes" : "no: ", info->available ? "" : info->reason);
    printf("    good for       %s\n", info->best_for);
    printf("    memory         %s\n", info->memory);
    printf("    options        ");
    print_bits(info->features, options_taken, CLI_COUNT(options_taken));
    printf("    data types     ");
    print_bits(info->dtypes, data_types, CLI_COUNT(data_types));
    printf("    gradients      %s\n", info->backward ? "yes" : "no");
}

/* ------------------------------------------------------------------------------------------------------------------ */

static int show_one(const da_context *context, const char *name, bool json) {
    da_implementation_info info;
    da_implementation_info_init(&info);
    da_status status = da_implementation_get_info(context, name, &info);
    if (status != DA_OK) {
        return cli_usage("info", "--implementation: %s", da_last_error_message());
    }
    if (json) {
        return cli_print_json("info", json_implementation(&info));
    }
    print_implementation(&info);
    return CLI_OK;
}

static int show_all_json(const da_context *context) {
    json_t *implementations = json_array();
    for (size_t i = 0; i < da_implementation_count(); i++) {
        da_implementation_info info;
        da_implementation_info_init(&info);
        if (da_implementation_get_info(context, da_implementation_name(i), &info) == DA_OK) {
            json_array_append_new(implementations, json_implementation(&info));
        }
    }
    return cli_print_json("info",
                          json_pack("{s:s, s:o, s:s, s:i, s:o}", "version", da_version(), "hardware",
                                    json_hardware(context), "instruction_set", da_isa_name(da_context_isa(context)),
                                    "threads", da_context_threads(context), "implementations", implementations));
}

static int show_all(const da_context *context) {
    print_hardware(context);
    printf("\nimplementations\n");
    for (size_t i = 0; i < da_implementation_count(); i++) {
        da_implementation_info info;
        da_implementation_info_init(&info);
        if (da_implementation_get_info(context, da_implementation_name(i), &info) == DA_OK) {
            print_implementation(&info);
        }
    }
    return CLI_OK;
}

int command_info(int argc, char **argv) {
    machine chosen = {0};
    const char *name = NULL;
    bool json = false;
    const cli_option own[] = {
        {"implementation", "NAME", "only this implementation", cli_read_text, &name, 0, 0},
        {"json", NULL, "write JSON", cli_read_flag, &json, 0, 0},
    };
    cli_option computing[MACHINE_OPTION_COUNT];
    machine_options(&chosen, computing);
    const cli_group groups[] = {{"options", own, CLI_COUNT(own)}, {"computing", computing, CLI_COUNT(computing)}};
    const cli_command command = {"info", "[OPTIONS]", "Describes this machine and the implementations.",
                                 NULL,   groups,      CLI_COUNT(groups)};
    int code = cli_parse(&command, argc, argv);
    da_context *context = NULL;
    if (code == CLI_CONTINUE) {
        code = machine_context(&chosen, "info", NULL, NULL, &context);
    }
    if (code == CLI_CONTINUE) {
        code = name != NULL ? show_one(context, name, json) : json ? show_all_json(context) : show_all(context);
    }
    da_context_free(context);
    return code;
}
