/* What comparisons run over: implementations on instruction sets of this machine, by data type, with some numbers of
 * threads; and the choices that a case's number makes. */
#ifndef DA_TESTS_GROUPS_H
#define DA_TESTS_GROUPS_H

#include "support/case_file.h"
#include "support/layouts.h"

enum { THREAD_CHOICES = 4, MAX_GROUPS = 128 };

extern const int GROUP_THREADS[THREAD_CHOICES];

typedef struct kernel_group {
    char name[64];
    int64_t every; /* cases are taken: 1, or fewer where kernels were met with all cases before */
    const char *implementation;
    da_isa isa;
    da_dtype dtype;
    int number;
    da_context *contexts[THREAD_CHOICES]; /* one for each number of threads */
    int64_t cases, failures;
} kernel_group;

/* All groups of this machine; returns how many. */
int kernel_groups_list(kernel_group out[MAX_GROUPS]);

/* Runs one cmocka test for each of `count` groups: structs of `size` bytes that begin with a kernel_group, whose contexts
 * are open meanwhile. It calls run_case(group, number) for the cases that the group takes (those of its data type, and f32
 * cases in f64 too; with tiles, only block_sparse, which takes few without), or every k-th of them with DA_COMPARE_STRIDE=k in the environment; there must be one, and no failure.
 * Returns the number of tests that failed. */
int kernel_groups_compare(const char *name, const case_file *cases, void *groups, size_t size, int count,
                          void (*run_case)(void *group, int64_t number));

/* True if the kernels round weights to bf16. */
bool kernel_group_rounds_weights(const kernel_group *group);

/* How one group runs one case. */
typedef struct choice {
    layout layout;      /* of the tensors; LAYOUT_BROADCAST: key and value alone */
    int threads;        /* index in GROUP_THREADS */
    da_dtype lse_dtype; /* DA_DTYPE_ANY: no logsumexp */
    int64_t block;      /* of `ring`: tokens of a block; 0: all */
    int64_t merges;     /* of partial results, at most: blocks less one */
    int64_t split;      /* a forward pass is two calls, the second of which begins at this query; 0: one call */
} choice;

choice choose(const kernel_group *group, const test_case *one, int64_t number);

/* Sets a case's padding: the mask as it is stored, or with its two dimensions exchanged in memory. The caller frees the
 * result. */
uint8_t *set_padding(const test_case *one, layout kind, da_call_options *options);

/* Of block_sparse, which tiles are computed: the case's, by the configuration or by the call's options, or all. Returns what
 * is to be freed when the attention is; NULL: nothing. */
da_tile_mask *set_tiles(const kernel_group *group, const test_case *one, int64_t number, da_attention_config *config,
                        da_call_options *options);

typedef struct forward_tensors {
    const da_tensor *query, *key, *value, *out, *lse;
} forward_tensors;

/* A forward pass in the blocks and calls that were chosen. Leaves the block in the options. */
da_status forward_by_choice(const da_attention *attention, choice how, const forward_tensors *tensors,
                            da_call_options *options);

/* Counts a failure, and prints the first ones of a group in full. */
void complain(kernel_group *group, const test_case *one, choice how, const char *format, ...) DA_PRINTF(4, 5);

#endif
