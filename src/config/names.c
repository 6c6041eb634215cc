/* Names of the enumerations' values: one table each, read in both directions. */
#include <stdio.h>
#include <string.h>

#include "dilated_attention.h"

typedef struct name_entry {
    int value;
    const char *name;
} name_entry;

static const char *name_of(const name_entry *table, size_t count, int value) {
    for (size_t k = 0; k < count; k++) {
        if (table[k].value == value) {
            return table[k].name;
        }
    }
    return "?";
}

static da_status value_of(const name_entry *table, size_t count, const char *what, const char *name, int *value) {
    char allowed[256] = "";
    size_t length = 0;
    for (size_t k = 0; k < count; k++) {
        if (name && strcmp(table[k].name, name) == 0) {
            *value = table[k].value;
            return DA_OK;
        }
        length += (size_t)snprintf(allowed + length, sizeof allowed - length, "%s%s", k ? ", " : "", table[k].name);
    }
    if (!name) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", what, allowed);
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is \"%.64s\"; allowed: %s", what, name, allowed);
}

#define DEFINE_NAMES(type, prefix, ...)                                                                                \
    static const name_entry prefix##_table[] = {__VA_ARGS__};                                                          \
    const char *da_##prefix##_name(type value) {                                                                       \
        return name_of(prefix##_table, sizeof prefix##_table / sizeof *prefix##_table, (int)value);                    \
    }                                                                                                                  \
    da_status da_##prefix##_from_name(const char *name, type *out) {                                                   \
        int value = 0;                                                                                                 \
        if (!out) {                                                                                                    \
            return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: a place for the value");                \
        }                                                                                                              \
        da_status status =                                                                                             \
            value_of(prefix##_table, sizeof prefix##_table / sizeof *prefix##_table, #prefix, name, &value);           \
        if (status == DA_OK) {                                                                                         \
            *out = (type)value;                                                                                        \
        }                                                                                                              \
        return status;                                                                                                 \
    }

DEFINE_NAMES(da_mixing, mixing, {DA_MIXING_LONGNET, "longnet"}, {DA_MIXING_HEAD_GROUPS, "head_groups"})
DEFINE_NAMES(da_offset_rule, offset_rule, {DA_OFFSET_MOD, "mod"}, {DA_OFFSET_BLOCK, "block"})
DEFINE_NAMES(da_tail_rule, tail_rule, {DA_TAIL_MASK, "mask"}, {DA_TAIL_ZERO_PAD, "zero_pad"})
DEFINE_NAMES(da_overlap, overlap, {DA_OVERLAP_COUNT, "count"}, {DA_OVERLAP_ONCE, "once"})
DEFINE_NAMES(da_partition, partition, {DA_PARTITION_CONTIGUOUS, "contiguous"}, {DA_PARTITION_ZIGZAG, "zigzag"},
             {DA_PARTITION_STRIPED, "striped"})
DEFINE_NAMES(da_split, split, {DA_SPLIT_AUTO, "auto"}, {DA_SPLIT_TOKENS, "tokens"}, {DA_SPLIT_HEADS, "heads"})
DEFINE_NAMES(da_sparse_pattern, sparse_pattern, {DA_SPARSE_CONTENT, "content"},
             {DA_SPARSE_LOCAL_WINDOW, "local_window"}, {DA_SPARSE_GLOBAL_LOCAL, "global_local"},
             {DA_SPARSE_DILATED_SPARSE, "dilated_sparse"}, {DA_SPARSE_AXIAL, "axial"}, {DA_SPARSE_RANDOM, "random"},
             {DA_SPARSE_HYBRID, "hybrid"}, {DA_SPARSE_MASK, "mask"}, {DA_SPARSE_PROFILE, "profile"})
DEFINE_NAMES(da_preset, preset, {DA_PRESET_LONGNET, "longnet"}, {DA_PRESET_TORCHSCALE, "torchscale"},
             {DA_PRESET_HEAD_GROUPS, "head_groups"})
DEFINE_NAMES(da_dtype, dtype, {DA_F32, "f32"}, {DA_F64, "f64"}, {DA_BF16, "bf16"}, {DA_F16, "f16"},
             {DA_DTYPE_ANY, "any"})
DEFINE_NAMES(da_device, device, {DA_DEVICE_AUTO, "auto"}, {DA_DEVICE_CPU, "cpu"}, {DA_DEVICE_CUDA, "cuda"})
DEFINE_NAMES(da_isa, isa, {DA_ISA_AUTO, "auto"}, {DA_ISA_PORTABLE, "portable"}, {DA_ISA_AVX2, "avx2"},
             {DA_ISA_AVX512, "avx512"}, {DA_ISA_AVX512_BF16, "avx512_bf16"}, {DA_ISA_AMX_BF16, "amx_bf16"},
             {DA_ISA_NEON, "neon"})
DEFINE_NAMES(da_position, position, {DA_POSITION_NONE, "none"}, {DA_POSITION_ROPE, "rope"}, {DA_POSITION_XPOS, "xpos"})
DEFINE_NAMES(da_rotary_layout, rotary_layout, {DA_ROTARY_ADJACENT, "adjacent"}, {DA_ROTARY_HALVES, "halves"})
