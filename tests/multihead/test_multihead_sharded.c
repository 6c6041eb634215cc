/* A module whose parameters are divided among ranks gives what one gives that has all of them on each: to the bit where the
 * products are the same, otherwise to rounding; as do both to what one process gives. Parameters, files, bytes and memory. */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "comm/counted.h"
#include "multihead/rank_module.h"
#include "support/counting_allocator.h"
#include "support/environment.h"
#include "support/ranks.h"
#include "support/values.h"

enum { MOST_RANKS = 7 };

/* What ranks found: cmocka's assertions belong to the main thread. */
typedef struct findings {
    module_problem problem;
    char found[MOST_RANKS][512]; /* empty: as it should be */
    char path[256];
} findings;

static const int RANK_COUNTS[] = {1, 2, 3, 4, 7};

/* Runs `body` over as many ranks, where there can be as many. */
static void over(int ranks, findings *f, void (*body)(const da_comm *comm, void *user)) {
    if (ranks_given() > 0 && ranks_given() != ranks) {
        return;
    }
    memset(f->found, 0, sizeof f->found);
    assert_true(ranks_run(ranks, 60, NULL, body, f));
    for (int rank = 0; rank < ranks; rank++) {
        if (f->found[rank][0]) {
            fail_msg("%s, %s, %s, E %lld, %d inputs, rank %d of %d: %s", f->problem.implementation,
                     da_dtype_name(f->problem.dtype), da_partition_name(f->problem.partition),
                     (long long)f->problem.embed_dim, f->problem.inputs, rank, ranks, f->found[rank]);
        }
    }
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

/* Of results in f32 and f64, sums of some hundred terms in another order; of the half types, roundings of stored activations
 * that fall to the other side. */
static double tolerance(da_dtype dtype) {
    return value_roundoff(dtype) * (dtype == DA_F64 ? 1e4 : dtype == DA_F32 ? 1e3 : 16);
}

/* Rows of `got` against rows of `expected`, which begin at place[row] there; relative to the largest of `expected_count`. */
static void compare_row(const char *what, const void *got, int64_t got_first, const void *expected,
                        int64_t expected_first, int64_t count, da_dtype dtype, double bound, char *found) {
    for (int64_t c = 0; c < count && !found[0]; c++) {
        double a = value_load(got, dtype, got_first + c), b = value_load(expected, dtype, expected_first + c);
        if (!(fabs(a - b) <= bound)) {
            snprintf(found, 512, "%s: %.17g, not %.17g, off by more than %g", what, a, b, bound);
        }
    }
}

static double largest_of(const da_tensor *t) {
    double largest = 0;
    for (int64_t b = 0; b < t->shape[0]; b++) {
        for (int64_t k = 0; k < t->shape[1] * t->shape[3]; k++) {
            largest = fmax(largest, fabs(value_load(t->data, t->dtype, b * t->stride[0] + k)));
        }
    }
    return largest;
}

/* comm NULL: both hold the same rows; otherwise `expected` holds all tokens. */
static void compare_tensors(const char *what, const rank_module *got, const da_tensor *a, const da_tensor *b,
                            const da_comm *comm, char *found) {
    double bound = tolerance(a->dtype) * largest_of(b);
    for (int64_t batch = 0; batch < a->shape[0]; batch++) {
        for (int64_t row = 0; row < a->shape[1]; row++) {
            int64_t other = comm ? rank_module_position(got, comm, row) : row;
            compare_row(what, a->data, batch * a->stride[0] + row * a->stride[1], b->data,
                        batch * b->stride[0] + other * b->stride[1], a->shape[3], a->dtype, bound, found);
        }
    }
}

static double largest_number(const da_parameter *p) {
    double largest = 0;
    for (int64_t k = 0; k < p->shape[0] * p->shape[1]; k++) {
        largest = fmax(largest, fabs(value_load(p->data, p->dtype, k)));
    }
    return largest;
}

/* A parameter's, or a gradient's, rows that a rank holds, against those of a module that has all. */
static void compare_rows(const da_parameter *got, const da_parameter *whole, double bound, bool bits, char *found) {
    int64_t columns = whole->shape[1], first = got->first_row * columns, count = got->shape[0] * columns;
    size_t size = da_dtype_size(got->dtype);
    if (got->whole_rows != whole->shape[0] || got->shape[1] != columns || got->dtype != whole->dtype) {
        snprintf(found, 512, "%s has another shape", got->name);
        return;
    }
    if (bits && memcmp(got->data, (const char *)whole->data + (size_t)first * size, (size_t)count * size) != 0) {
        snprintf(found, 512, "%s has other bits", got->name);
    }
    compare_row(got->name, got->data, 0, whole->data, first, count, got->dtype, bound, found);
}

/* ---- whole runs -------------------------------------------------------------------------------------------------- */

/* Relative to the largest of all: some are sums that vanish but for rounding, as that of a bias of all keys. */
static void compare_gradients(const rank_module *got, const rank_module *whole, bool bits, char *found) {
    double largest = 0;
    da_parameter mine, all;
    for (size_t k = 0; k < da_multihead_parameter_count(whole->multihead); k++) {
        da_multihead_gradient_at(whole->gradients, k, &all);
        largest = fmax(largest, largest_number(&all));
    }
    for (size_t k = 0; k < da_multihead_parameter_count(got->multihead); k++) {
        da_multihead_gradient_at(got->gradients, k, &mine);
        da_multihead_gradient_at(whole->gradients, k, &all);
        compare_rows(&mine, &all, tolerance(got->problem.dtype) * largest, bits, found);
    }
}

static bool same_bits(const da_tensor *a, const da_tensor *b) {
    size_t bytes = (size_t)(a->shape[0] * a->stride[0]) * da_dtype_size(a->dtype);
    return memcmp(a->data, b->data, bytes) == 0;
}

static void compare_runs(const rank_module *got, const rank_module *replicated, const rank_module *one,
                         const da_comm *comm, char *found) {
    /* Products of one input alone are one in a module that has all weights. */
    bool bits = got->problem.inputs == 3;
    compare_tensors("out", got, &got->out, &replicated->out, NULL, found);
    compare_tensors("out of one process", got, &got->out, &one->out, comm, found);
    for (int k = 0; k < got->problem.inputs; k++) {
        compare_tensors("grad_input", got, &got->grad_inputs[k], &replicated->grad_inputs[k], NULL, found);
        compare_tensors("grad_input of one process", got, &got->grad_inputs[k], &one->grad_inputs[k], comm, found);
        if (bits && !same_bits(&got->grad_inputs[k], &replicated->grad_inputs[k])) {
            snprintf(found, 512, "grad_input %d has other bits", k);
        }
    }
    if (bits && !same_bits(&got->out, &replicated->out)) {
        snprintf(found, 512, "out has other bits");
    }
    compare_gradients(got, replicated, bits, found);
    compare_gradients(got, one, false, found);
}

static void run(rank_module *m, const module_problem *problem, const da_comm *comm, char *found) {
    rank_module_open(m, problem, comm, NULL);
    rank_module_forward(m);
    if (rank_module_backward(m) != DA_OK) {
        snprintf(found, 512, "%s", da_last_error_message());
    }
}

static void compare_all(const da_comm *comm, void *user) {
    findings *f = user;
    module_problem replicated = f->problem;
    rank_module got, many, one;
    char *found = f->found[comm->rank];
    replicated.sharded = false;
    replicated.threads = 1;
    run(&one, &replicated, NULL, found);
    run(&many, &replicated, comm, found);
    run(&got, &f->problem, comm, found);
    if (!found[0]) {
        compare_runs(&got, &many, &one, comm, found);
    }
    rank_module_close(&got);
    rank_module_close(&many);
    rank_module_close(&one);
}

static const struct {
    int64_t embed_dim, heads, kv_heads;
} SIZES[] = {{24, 4, 2}, {8, 2, 1}, {21, 3, 3}}; /* the second: fewer rows than ranks */

static void test_same_as_replicated(void **state) {
    static const char *const implementations[] = {"ring", "distributed", "auto"};
    static const da_dtype dtypes[] = {DA_F64, DA_F32, DA_BF16, DA_F16};
    const int stride = 1 + (int)comparison_stride() / 10;
    int runs = 0;
    for (size_t r = 0; r < sizeof RANK_COUNTS / sizeof *RANK_COUNTS; r++) {
        for (int dtype = 0; dtype < 4; dtype++) {
            for (int inputs = 1; inputs <= 3; inputs++) {
                for (int size = 0; size < 3; size++, runs++) {
                    if (runs % stride != stride / 2) {
                        continue;
                    }
                    findings f = {.problem = {.implementation = implementations[runs % 3],
                                              .dtype = dtypes[dtype],
                                              .partition = (da_partition)(runs / 3 % 3),
                                              .position = size == 2 ? DA_POSITION_NONE : (da_position)(runs / 2 % 3),
                                              .batch = 2,
                                              .n = 61,
                                              .embed_dim = SIZES[size].embed_dim,
                                              .heads = SIZES[size].heads,
                                              .kv_heads = SIZES[size].kv_heads,
                                              .threads = 1 + runs % 2,
                                              .inputs = inputs,
                                              .plain = runs % 5 == 4,
                                              .padded = runs % 2 == 0,
                                              .apart = runs % 4 < 2,
                                              .sharded = true,
                                              .no_input_gradients = runs % 7 == 5,
                                              .no_parameter_gradients = runs % 7 == 6}};
                    over(RANK_COUNTS[r], &f, compare_all);
                }
            }
        }
    }
}

/* More rows than are taken at a time. */
static void test_many_rows(void **state) {
    const int least = is_slow_tool() ? 3 : 1;
    for (int inputs = least; inputs <= 3; inputs++) {
        findings f = {.problem = {.implementation = "distributed",
                                  .dtype = inputs == 2 ? DA_BF16 : DA_F32,
                                  .position = DA_POSITION_ROPE,
                                  .batch = 2,
                                  .n = 2700,
                                  .embed_dim = 8,
                                  .heads = 2,
                                  .kv_heads = 1,
                                  .threads = 2,
                                  .inputs = inputs,
                                  .apart = true,
                                  .sharded = true}};
        over(2, &f, compare_all);
    }
}

static const module_problem SMALL = SMALL_SHARDED(1);

/* Two passes into one set of gradients. */
static void add_twice(const da_comm *comm, void *user) {
    findings *f = user;
    module_problem replicated = f->problem;
    rank_module got, one;
    char *found = f->found[comm->rank];
    replicated.sharded = false;
    rank_module_open(&got, &f->problem, comm, NULL);
    rank_module_open(&one, &replicated, NULL, NULL);
    rank_module_forward(&got);
    rank_module_forward(&one);
    for (int pass = 0; pass < 2; pass++) {
        rank_module_backward(&got);
        rank_module_backward(&one);
    }
    if (got.status != DA_OK || one.status != DA_OK) {
        snprintf(found, 512, "%s", da_last_error_message());
    } else {
        compare_gradients(&got, &one, false, found);
    }
    da_multihead_gradients_zero(got.gradients);
    for (size_t k = 0; k < da_multihead_parameter_count(got.multihead); k++) {
        da_parameter gradient;
        da_multihead_gradient_at(got.gradients, k, &gradient);
        for (int64_t e = 0; e < gradient.shape[0] * gradient.shape[1] && !found[0]; e++) {
            if (value_load(gradient.data, gradient.dtype, e) != 0) {
                snprintf(found, 512, "%s is not zero", gradient.name);
            }
        }
    }
    rank_module_close(&got);
    rank_module_close(&one);
}

static void test_passes_add(void **state) {
    for (size_t r = 0; r < sizeof RANK_COUNTS / sizeof *RANK_COUNTS; r++) {
        findings f = {.problem = SMALL};
        over(RANK_COUNTS[r], &f, add_twice);
    }
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */

/* Drawn, each rank has its rows of what one process draws; gathered, all have all; written by rows, they come together. */
static void look_at_parameters(const da_comm *comm, void *user) {
    findings *f = user;
    module_problem replicated = f->problem;
    rank_module got, one;
    char *found = f->found[comm->rank];
    replicated.sharded = false;
    rank_module_open(&got, &f->problem, comm, NULL);
    rank_module_open(&one, &replicated, NULL, NULL);
    for (size_t k = 0; k < da_multihead_parameter_count(one.multihead) && !found[0]; k++) {
        da_parameter mine, all;
        da_multihead_parameter_at(got.multihead, k, &mine);
        da_multihead_parameter_at(one.multihead, k, &all);
        compare_rows(&mine, &all, 0, true, found);
        int64_t rows = all.shape[0];
        if (mine.first_row != rows * comm->rank / comm->ranks ||
            mine.first_row + mine.shape[0] != rows * (comm->rank + 1) / comm->ranks) {
            snprintf(found, 512, "%s: rows %lld and %lld more", mine.name, (long long)mine.first_row,
                     (long long)mine.shape[0]);
        }
        for (int64_t e = 0; e < mine.shape[0] * mine.shape[1]; e++) {
            value_store(mine.data, mine.dtype, e, (double)((mine.first_row * mine.shape[1] + e) % 251));
        }
        float *whole = malloc((size_t)(rows * all.shape[1]) * sizeof *whole);
        if (da_multihead_gather_parameter(got.multihead, all.name, whole) != DA_OK) {
            snprintf(found, 512, "%s", da_last_error_message());
        }
        for (int64_t e = 0; e < rows * all.shape[1] && !found[0]; e++) {
            if (whole[e] != (float)(e % 251)) {
                snprintf(found, 512, "gathered %s[%lld] is %g", all.name, (long long)e, (double)whole[e]);
            }
        }
        free(whole);
    }
    rank_module_close(&got);
    rank_module_close(&one);
}

static void test_parameters(void **state) {
    for (size_t r = 0; r < sizeof RANK_COUNTS / sizeof *RANK_COUNTS; r++) {
        for (int size = 0; size < 3; size++) {
            findings f = {.problem = SMALL};
            f.problem.embed_dim = SIZES[size].embed_dim;
            f.problem.heads = SIZES[size].heads;
            f.problem.kv_heads = SIZES[size].kv_heads;
            over(RANK_COUNTS[r], &f, look_at_parameters);
        }
    }
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static void set_all(da_multihead *multihead, double value) {
    for (size_t k = 0; k < da_multihead_parameter_count(multihead); k++) {
        da_parameter p;
        da_multihead_parameter_at(multihead, k, &p);
        for (int64_t e = 0; e < p.shape[0] * p.shape[1]; e++) {
            value_store(p.data, p.dtype, e, value);
        }
    }
}

static bool same_file(const char *a, const char *b) {
    FILE *files[2] = {fopen(a, "rb"), fopen(b, "rb")};
    bool same = files[0] && files[1];
    for (int c = 0; same && c != EOF;) {
        c = getc(files[0]);
        same = c == getc(files[1]);
    }
    for (int k = 0; k < 2; k++) {
        if (files[k]) {
            fclose(files[k]);
        }
    }
    return same;
}

/* A file that cannot be written is an error on all. */
static void save_nowhere(const rank_module *m, const da_comm *comm, const da_weights_format *format, char *found) {
    da_status status = da_multihead_save(m->multihead, "/no/such/folder/w.safetensors", format);
    if (status != DA_ERROR_IO) {
        snprintf(found, 512, "saving nowhere: %s", da_status_name(status));
    } else if (comm->rank > 0 && !strstr(da_last_error_message(), "rank 0 could not begin to save")) {
        snprintf(found, 512, "saving nowhere: %s", da_last_error_message());
    }
}

/* Rank 0's file is that of one process, from which every rank gets its rows again. */
static void save_and_load(const rank_module *got, const rank_module *one, const char *path, const char *own_path,
                          const da_weights_format *format, char *found) {
    da_parameter mine, all;
    if (da_multihead_save(got->multihead, path, format) != DA_OK ||
        da_multihead_save(one->multihead, own_path, format) != DA_OK) {
        snprintf(found, 512, "%s", da_last_error_message());
    } else if (!same_file(path, own_path)) {
        snprintf(found, 512, "another file");
    }
    set_all(got->multihead, 3);
    if (!found[0] && da_multihead_load(got->multihead, path, format) != DA_OK) {
        snprintf(found, 512, "%s", da_last_error_message());
    }
    for (size_t k = 0; k < da_multihead_parameter_count(one->multihead) && !found[0]; k++) {
        da_multihead_parameter_at(got->multihead, k, &mine);
        da_multihead_parameter_at(one->multihead, k, &all);
        compare_rows(&mine, &all, 0, true, found);
    }
    remove(own_path);
}

/* After a file that cannot be written they go on. */
static void use_files(const da_comm *comm, void *user) {
    findings *f = user;
    module_problem replicated = f->problem;
    rank_module got, one;
    char *found = f->found[comm->rank], own_path[300], path[300];
    replicated.sharded = false;
    rank_module_open(&got, &f->problem, comm, NULL);
    rank_module_open(&one, &replicated, NULL, NULL);
    snprintf(path, sizeof path, "%s/all.safetensors", f->path);
    snprintf(own_path, sizeof own_path, "%s/of_%d.safetensors", f->path, comm->rank);
    for (int layout = 0; layout < 2; layout++) {
        da_weights_format format;
        da_weights_format_init(&format);
        format.prefix = "layer.0.";
        format.layout = (da_weight_layout)layout;
        save_nowhere(&got, comm, &format, found);
        save_and_load(&got, &one, path, own_path, &format, found);
        (void)da_comm_agree(comm, NULL, "end", 3, "the end"); /* nobody reads any more */
    }
    rank_module_close(&got);
    rank_module_close(&one);
}

static void test_files(void **state) {
    static const da_dtype dtypes[] = {DA_F32, DA_BF16};
    for (size_t r = 1; r < sizeof RANK_COUNTS / sizeof *RANK_COUNTS; r++) {
        for (int dtype = 0; dtype < 2; dtype++) {
            findings f = {.problem = SMALL};
            char path[300], made[] = "/tmp/sharded_XXXXXX";
            f.problem.dtype = dtypes[dtype];
            assert_non_null(mkdtemp(made));
            strcpy(f.path, made);
            ranks_share(0, f.path, sizeof f.path); /* where ranks are processes, each has made one */
            over(RANK_COUNTS[r], &f, use_files);
            snprintf(path, sizeof path, "%s/all.safetensors", f.path);
            remove(path);
            rmdir(made);
        }
    }
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

/* Bytes of the two passes, of what all ranks do together. */
static void count(const module_problem *problem, const da_comm *comm, int64_t sent[2], char *found) {
    da_counted counted;
    da_comm ours;
    rank_module m;
    da_count_messages(&counted, comm, &ours);
    rank_module_open(&m, problem, &ours, NULL);
    int64_t before = counted.collective_bytes;
    rank_module_forward(&m);
    sent[0] = counted.collective_bytes - before;
    before = counted.collective_bytes;
    if (m.status == DA_OK) {
        m.status = da_multihead_backward(m.multihead, m.saved, &m.tensors, &m.options);
    }
    sent[1] = counted.collective_bytes - before;
    if (m.status != DA_OK) {
        snprintf(found, 512, "%s", da_last_error_message());
    }
    rank_module_close(&m);
}

/* Elements that a rank holds of all parameters, and those of all ranks; weights of query, key and value alone where asked for. */
static void count_elements(const module_problem *problem, const da_comm *comm, bool of_inputs, int64_t *mine,
                           int64_t *all) {
    rank_module m;
    rank_module_open(&m, problem, comm, NULL);
    *mine = *all = 0;
    for (size_t k = 0; k < da_multihead_parameter_count(m.multihead); k++) {
        da_parameter p;
        da_multihead_parameter_at(m.multihead, k, &p);
        if (!of_inputs || (p.rank == 2 && strcmp(p.name, "out_proj.weight") != 0)) {
            *mine += p.shape[0] * p.shape[1];
            *all += p.whole_rows * p.shape[1];
        }
    }
    rank_module_close(&m);
}

/* What a sharded module sends beyond another, and the numbers by which ranks agree on a call. */
static void check_bytes(const da_comm *comm, void *user) {
    findings *f = user;
    char *found = f->found[comm->rank];
    module_problem replicated = f->problem;
    int64_t sharded[2], plain[2], mine, all, inputs_mine, unused, steps = 0;
    int64_t size = (int64_t)da_dtype_size(f->problem.dtype), real = f->problem.dtype == DA_F64 ? 8 : 4;
    replicated.sharded = false;
    count(&f->problem, comm, sharded, found);
    count(&replicated, comm, plain, found);
    count_elements(&f->problem, comm, false, &mine, &all);
    count_elements(&f->problem, comm, true, &inputs_mine, &unused);
    for (int64_t have = 1; have < comm->ranks; have *= 2) {
        steps += have < comm->ranks - have ? have : comm->ranks - have;
    }
    int64_t agreeing = steps * 3 * 8, others = comm->ranks - 1;
    int64_t forward = others * mine * size;
    int64_t backward = others * (f->problem.no_input_gradients ? mine - inputs_mine : mine) * size;
    backward += f->problem.no_parameter_gradients ? 0 : (all - mine) * real;
    if (!found[0] && (sharded[0] - plain[0] != forward + agreeing || sharded[1] - plain[1] != backward + agreeing)) {
        snprintf(found, 512, "sent %lld and %lld bytes more, not %lld and %lld", (long long)(sharded[0] - plain[0]),
                 (long long)(sharded[1] - plain[1]), (long long)(forward + agreeing), (long long)(backward + agreeing));
    }
}

static void test_bytes(void **state) {
    static const da_dtype dtypes[] = {DA_F64, DA_F32, DA_BF16};
    for (size_t r = 1; r < sizeof RANK_COUNTS / sizeof *RANK_COUNTS; r++) {
        for (int k = 0; k < 3; k++) {
            findings f = {.problem = SMALL};
            f.problem.dtype = dtypes[k];
            f.problem.no_input_gradients = k == 1;
            f.problem.no_parameter_gradients = k == 2;
            over(RANK_COUNTS[r], &f, check_bytes);
        }
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

typedef struct memory {
    long created, forward, backward; /* live after creation; the most in each pass */
} memory;

static memory measure(const module_problem *problem, const da_comm *comm, char *found) {
    counting_allocator counter = {0};
    da_allocator allocator = counting_allocator_interface(&counter);
    rank_module m;
    memory used = {0};
    rank_module_open(&m, problem, comm, &allocator);
    used.created = atomic_load(&counter.live_bytes);
    atomic_store(&counter.peak_bytes, 0);
    rank_module_forward(&m);
    used.forward = atomic_load(&counter.peak_bytes);
    atomic_store(&counter.peak_bytes, 0);
    rank_module_backward(&m);
    used.backward = atomic_load(&counter.peak_bytes);
    if (m.status != DA_OK) {
        snprintf(found, 512, "%s", da_last_error_message());
    }
    rank_module_close(&m);
    if (atomic_load(&counter.live) != 0) {
        snprintf(found, 512, "%ld blocks are left", atomic_load(&counter.live));
    }
    return used;
}

/* Parameters and gradients are 1/P; to that comes, during a pass, the largest matrix, and its gradient. The rest is that of a
 * module that has all: some vectors, and lists of ranks. */
static void check_memory(const da_comm *comm, void *user) {
    findings *f = user;
    char *found = f->found[comm->rank];
    module_problem replicated = f->problem;
    int64_t mine, all, size = (int64_t)da_dtype_size(f->problem.dtype), real = f->problem.dtype == DA_F64 ? 8 : 4;
    replicated.sharded = false;
    memory sharded = measure(&f->problem, comm, found), plain = measure(&replicated, comm, found);
    count_elements(&f->problem, comm, false, &mine, &all);
    int64_t matrix = f->problem.embed_dim * f->problem.embed_dim, few = 100 * f->problem.embed_dim * 8;
    int64_t copies = size == real ? 0 : all * real; /* of all parameters, which a module that has all makes */
    int64_t at_hand = matrix * size + (size == real ? 0 : matrix * real), spared = (all - mine) * (size + real);
    int64_t moving = 2 * matrix * real + matrix * real; /* what is summed: given and got; the sum */
    if (found[0]) {
        return;
    }
    if (labs(plain.created - sharded.created - (long)spared) > 256) {
        snprintf(found, 512, "created with %ld bytes, not %lld less than %ld", sharded.created, (long long)spared,
                 plain.created);
    } else if (sharded.forward > plain.forward - spared - copies + at_hand + few) {
        snprintf(found, 512, "forward took %ld bytes, %ld without shards", sharded.forward, plain.forward);
    } else if (sharded.backward > plain.backward - spared - copies + at_hand + matrix * real + moving + few) {
        snprintf(found, 512, "backward took %ld bytes, %ld without shards", sharded.backward, plain.backward);
    }
    if (comm->rank == 0) {
        printf("%s, %d ranks, E %lld: bytes of rank 0, sharded (replicated): created %ld (%ld), forward %ld (%ld), "
               "backward "
               "%ld (%ld)\n",
               da_dtype_name(f->problem.dtype), comm->ranks, (long long)f->problem.embed_dim, sharded.created,
               plain.created, sharded.forward, plain.forward, sharded.backward, plain.backward);
    }
}

static void test_memory(void **state) {
    static const da_dtype dtypes[] = {DA_F32, DA_BF16};
    static const int ranks[] = {2, 4, 7};
    const bool few = is_slow_tool();
    for (int r = 0; r < (few ? 1 : 3); r++) {
        for (int dtype = 0; dtype < (few ? 1 : 2); dtype++) {
            findings f = {.problem = SMALL};
            f.problem.dtype = dtypes[dtype];
            f.problem.embed_dim = 512;
            f.problem.heads = f.problem.kv_heads = 8;
            f.problem.n = 28;
            f.problem.batch = 1;
            over(ranks[r], &f, check_memory);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_replicated),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_passes_add),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
