#include "compare/groups.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "compare/bounds.h"
#include "support/environment.h"
#include "support/ranked.h"
#include "support/ranks.h"

enum { COMPLAINTS = 5, DTYPES = 4, MOST_BLOCKS = 8 };

const int GROUP_THREADS[THREAD_CHOICES] = {1, 2, 3, 7};

/* Ranks share improved's kernels: one case in OVER_RANKS of each instruction set and type, other ones each time. */
enum { OVER_RANKS = 4 };

/* So many cases without tiles are one for block_sparse, which then computes all of improved's. */
enum { WITHOUT_TILES = 4 };

static void add_groups(kernel_group *out, int *count, const char *implementation, da_isa isa, int64_t every) {
    for (da_dtype dtype = DA_F32; dtype <= DA_F16; dtype++) {
        kernel_group *group = &out[*count];
        *group = (kernel_group){
            .implementation = implementation, .isa = isa, .dtype = dtype, .every = every, .number = (*count)++};
        snprintf(group->name, sizeof group->name, "%s %s %s", implementation, da_isa_name(isa), da_dtype_name(dtype));
    }
}

/* Ranks that are processes: the kernels have met all cases elsewhere, so that those of one instruction set will do. */
static int list_over_processes(kernel_group out[MAX_GROUPS]) {
    int count = 0;
    da_isa best = DA_ISA_PORTABLE;
    for (da_isa isa = DA_ISA_PORTABLE; isa <= DA_ISA_NEON; isa++) {
        best = da_isa_available(isa) ? isa : best;
    }
    add_groups(out, &count, RING_OVER_RANKS, best, OVER_RANKS);
    add_groups(out, &count, DISTRIBUTED_OVER_RANKS, best, OVER_RANKS);
    return count;
}

int kernel_groups_list(kernel_group out[MAX_GROUPS]) {
    int count = 0;
    ranked_register();
    if (ranks_given() > 0) {
        return list_over_processes(out);
    }
    add_groups(out, &count, "standard", DA_ISA_PORTABLE, 1);
    for (da_isa isa = DA_ISA_PORTABLE; isa <= DA_ISA_NEON; isa++) {
        if (da_isa_available(isa)) {
            add_groups(out, &count, "improved", isa, 1);
            add_groups(out, &count, "ring", isa, 1);
            add_groups(out, &count, "block_sparse", isa, 1);
            add_groups(out, &count, RING_OVER_RANKS, isa, OVER_RANKS);
            add_groups(out, &count, DISTRIBUTED_OVER_RANKS, isa, OVER_RANKS);
        } else {
            printf("skipped: kernels of %s, which this machine or build lacks\n", da_isa_name(isa));
        }
    }
    return count;
}

static int open_contexts(void **state) {
    kernel_group *group = *state;
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

static int close_contexts(void **state) {
    kernel_group *group = *state;
    for (int t = 0; t < THREAD_CHOICES; t++) {
        da_context_free(group->contexts[t]);
    }
    return 0;
}

/* What kernel_groups_compare was given, for test_group. */
static struct {
    const case_file *cases;
    int64_t stride;
    void (*run_case)(void *group, int64_t number);
} comparison;

static bool is_sparse(const kernel_group *group) {
    return strcmp(group->implementation, "block_sparse") == 0;
}

static bool takes(const kernel_group *group, int64_t number) {
    const test_case *one = &comparison.cases->cases[number];
    bool fits = one->dtype == group->dtype || (group->dtype == DA_F64 && one->dtype == DA_F32);
    if (one->tile_block > 0 || !is_sparse(group)) {
        return fits && (one->tile_block > 0) == is_sparse(group);
    }
    return fits && (number + group->number / DTYPES) % WITHOUT_TILES == 0;
}

static int64_t count_cases(const kernel_group *group) {
    int64_t count = 0;
    for (int64_t number = 0; number < comparison.cases->count; number++) {
        count += takes(group, number);
    }
    return count;
}

static void test_group(void **state) {
    kernel_group *group = *state;
    int64_t every = comparison.stride * group->every, count = count_cases(group);
    every = every < count ? every : count; /* one at least */
    int64_t taking_part = group->number / DTYPES;
    for (int64_t number = 0; number < comparison.cases->count; number++) {
        if (takes(group, number) && taking_part++ % every == 0) {
            comparison.run_case(group, number);
            group->cases++;
        }
    }
    assert_int_not_equal(group->cases, 0);
    assert_int_equal(group->failures, 0);
}

int kernel_groups_compare(const char *name, const case_file *cases, void *groups, size_t size, int count,
                          void (*run_case)(void *group, int64_t number)) {
    struct CMUnitTest tests[MAX_GROUPS];
    comparison.cases = cases;
    comparison.stride = comparison_stride();
    comparison.run_case = run_case;
    for (int g = 0; g < count; g++) {
        kernel_group *group = (kernel_group *)(void *)((char *)groups + (size_t)g * size);
        tests[g] = (struct CMUnitTest){group->name, test_group, open_contexts, close_contexts, group};
    }
    return _cmocka_run_group_tests(name, tests, (size_t)count, NULL, NULL);
}

bool kernel_group_rounds_weights(const kernel_group *group) {
    return rounds_weights(group->isa, group->dtype);
}

/* Blocks that meet the edges of segments and tiles in every way; not so small that there are very many of them. */
static void choose_block(choice *how, int64_t n, int64_t mixed) {
    const int64_t blocks[] = {1, 7, 64, 100, 29};
    int64_t block = blocks[mixed % (int64_t)(sizeof blocks / sizeof *blocks)];
    while ((n - 1) / block > MOST_BLOCKS) {
        block = 2 * block + 1;
    }
    how->block = block;
    how->merges = (n - 1) / block;
}

choice choose(const kernel_group *group, const test_case *one, int64_t number) {
    static const da_dtype forms[] = {DA_F64, DA_F32, DA_DTYPE_ANY};
    int64_t mixed = number + 7 * group->number;
    choice how = {
        .layout = (layout)(mixed / THREAD_CHOICES % LAYOUT_COUNT),
        .threads = (int)(mixed % THREAD_CHOICES),
        .lse_dtype = forms[mixed / (THREAD_CHOICES * LAYOUT_COUNT) % 3],
    };
    if (strcmp(group->implementation, "ring") == 0) {
        choose_block(&how, one->n, mixed);
    }
    bool over_ranks = group->every == OVER_RANKS;
    if (over_ranks) {
        how.merges = RANKED_MERGES;
    } else if (strcmp(group->implementation, "standard") != 0 && one->n > 1 && mixed % 3 == 0) {
        how.split = 1 + mixed % (one->n - 1);
    }
    if (how.layout == LAYOUT_BROADCAST && !one->shared_kv) {
        how.layout = LAYOUT_GAPS;
    }
    if (how.lse_dtype == DA_F32 && group->dtype == DA_F64) {
        how.lse_dtype = DA_F64;
    }
    return how;
}

da_status forward_by_choice(const da_attention *attention, choice how, const forward_tensors *t,
                            da_call_options *options) {
    options->block = how.block;
    options->query_end = how.split;
    da_status status = da_attention_forward(attention, t->query, t->key, t->value, t->out, t->lse, options);
    if (status == DA_OK && how.split > 0) {
        options->query_first = how.split;
        options->query_end = t->query->shape[1];
        status = da_attention_forward(attention, t->query, t->key, t->value, t->out, t->lse, options);
    }
    options->query_first = options->query_end = 0;
    return status;
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

da_tile_mask *set_tiles(const kernel_group *group, const test_case *one, int64_t number, da_attention_config *config,
                        da_call_options *options) {
    static const da_sparse_pattern fixed[] = {DA_SPARSE_LOCAL_WINDOW, DA_SPARSE_GLOBAL_LOCAL, DA_SPARSE_DILATED_SPARSE,
                                              DA_SPARSE_AXIAL,        DA_SPARSE_RANDOM,       DA_SPARSE_HYBRID};
    static const int64_t blocks[] = {16, 32, 48, 64, 128, 1024};
    da_tile_mask *mask = NULL;
    int64_t mixed = number + group->number;
    if (!is_sparse(group)) {
        return NULL;
    }
    config->sparse_pattern = fixed[mixed % 6];
    config->block_size = blocks[mixed / 6 % 6];
    config->sparsity_ratio = 1;
    if (one->tile_block == 0) {
        return NULL;
    }
    assert_int_equal(
        da_tile_mask_create(NULL, one->tile_batch, one->tile_heads, one->n, one->tile_block, one->kept, &mask), DA_OK);
    if (mixed % 2) {
        config->sparse_pattern = DA_SPARSE_MASK;
        config->tile_mask = mask;
    } else {
        options->tiles = mask;
    }
    return mask;
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
    print_error("%s, case %s, layout %s, %d threads, block %lld, split %lld: %s\n", group->name, one->name,
                layout_name(how.layout), GROUP_THREADS[how.threads], (long long)how.block, (long long)how.split, text);
}
