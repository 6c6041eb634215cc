#include "compare/groups.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "compare/bounds.h"

enum { COMPLAINTS = 5 };

const int GROUP_THREADS[THREAD_CHOICES] = {1, 2, 3, 7};

static void add_groups(kernel_group *out, int *count, const char *implementation, da_isa isa) {
    for (da_dtype dtype = DA_F32; dtype <= DA_F16; dtype++) {
        kernel_group *group = &out[*count];
        *group = (kernel_group){.implementation = implementation, .isa = isa, .dtype = dtype, .number = (*count)++};
        snprintf(group->name, sizeof group->name, "%s %s %s", implementation, da_isa_name(isa), da_dtype_name(dtype));
    }
}

int kernel_groups_list(kernel_group out[MAX_GROUPS]) {
    int count = 0;
    add_groups(out, &count, "standard", DA_ISA_PORTABLE);
    for (da_isa isa = DA_ISA_PORTABLE; isa <= DA_ISA_NEON; isa++) {
        if (da_isa_available(isa)) {
            add_groups(out, &count, "improved", isa);
        } else {
            printf("skipped: improved %s, which this machine or build lacks\n", da_isa_name(isa));
        }
    }
    return count;
}

int kernel_group_open(kernel_group *group) {
    for (int t = 0; t < THREAD_CHOICES; t++) {
        da_context_options options;
        da_context_options_init(&options);
        options.threads = GROUP_THREADS[t];
        options.isa = group->isa;
        if (da_context_create(&options, &group->contexts[t]) != DA_OK) {
            print_error("%s\n", da_last_error_message());
            return -1;
        }
    }
    return 0;
}

void kernel_group_close(kernel_group *group) {
    for (int t = 0; t < THREAD_CHOICES; t++) {
        da_context_free(group->contexts[t]);
    }
}

bool kernel_group_takes(const kernel_group *group, const test_case *one) {
    return one->dtype == group->dtype || (group->dtype == DA_F64 && one->dtype == DA_F32);
}

bool kernel_group_rounds_weights(const kernel_group *group) {
    return rounds_weights(group->isa, group->dtype);
}

choice choose(const kernel_group *group, const test_case *one, int64_t number) {
    static const da_dtype forms[] = {DA_F64, DA_F32, DA_DTYPE_ANY};
    int64_t mixed = number + 7 * group->number;
    choice how = {
        .layout = (layout)(mixed / THREAD_CHOICES % LAYOUT_COUNT),
        .threads = (int)(mixed % THREAD_CHOICES),
        .lse_dtype = forms[mixed / (THREAD_CHOICES * LAYOUT_COUNT) % 3],
    };
    if (how.layout == LAYOUT_BROADCAST && !one->shared_kv) {
        how.layout = LAYOUT_GAPS;
    }
    if (how.lse_dtype == DA_F32 && group->dtype == DA_F64) {
        how.lse_dtype = DA_F64;
    }
    return how;
}

uint8_t *set_padding(const test_case *one, layout kind, da_call_options *options) {
    uint8_t *transposed = NULL;
    options->key_lengths = one->key_lengths;
    options->key_mask = one->key_mask;
    if (one->key_mask && kind != LAYOUT_DENSE) {
        transposed = malloc((size_t)(one->batch * one->n));
        assert_non_null(transposed);
        for (int64_t b = 0; b < one->batch; b++) {
            for (int64_t i = 0; i < one->n; i++) {
                transposed[i * one->batch + b] = one->key_mask[b * one->n + i];
            }
        }
        options->key_mask = transposed;
        options->key_mask_stride[0] = 1;
        options->key_mask_stride[1] = one->batch;
    }
    return transposed;
}

void complain(kernel_group *group, const test_case *one, choice how, const char *format, ...) {
    char text[512];
    va_list arguments;
    if (group->failures++ >= COMPLAINTS) {
        return;
    }
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_error("%s, case %s, layout %s, %d threads: %s\n", group->name, one->name, layout_name(how.layout),
                GROUP_THREADS[how.threads], text);
}
