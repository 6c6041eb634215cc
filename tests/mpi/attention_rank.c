/* A rank of a test of whole attention calls:  mpirun -n P attention_rank WHAT. Each rank writes one line, "rank R: WHAT: ...",
 * with what it found; test_attention.py starts it and reads that. */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/clock.h"
#include "comm/counted.h"
#include "dilated_attention_mpi.h"
#include "pattern/kept.h"

enum { HEADS = 4, KV_HEADS = 2, HEAD_DIM = 24, BATCH = 2, N = 1009 };

static const double TIMEOUT = 2; /* seconds */

/* The tensors of this rank's part, all numbers 0.5. */
typedef struct tensors {
    da_tensor query, key, value, out, lse, grad_out, grad_query, grad_key, grad_value;
} tensors;

static da_tensor make_tensor(da_dtype dtype, int64_t length, int64_t heads, int64_t head_dim) {
    size_t numbers = (size_t)(BATCH * length * heads * head_dim);
    char *data = calloc(numbers + 1, da_dtype_size(dtype));
    for (size_t k = 0; data && dtype == DA_F32 && k < numbers; k++) {
        ((float *)(void *)data)[k] = 0.5F;
    }
    return da_tensor_make(data, dtype, BATCH, length, heads, head_dim);
}

static tensors make_tensors(int64_t length) {
    return (tensors){.query = make_tensor(DA_F32, length, HEADS, HEAD_DIM),
                     .key = make_tensor(DA_F32, length, KV_HEADS, HEAD_DIM),
                     .value = make_tensor(DA_F32, length, KV_HEADS, HEAD_DIM),
                     .out = make_tensor(DA_F32, length, HEADS, HEAD_DIM),
                     .lse = make_tensor(DA_F64, length, HEADS, 1),
                     .grad_out = make_tensor(DA_F32, length, HEADS, HEAD_DIM),
                     .grad_query = make_tensor(DA_F32, length, HEADS, HEAD_DIM),
                     .grad_key = make_tensor(DA_F32, length, KV_HEADS, HEAD_DIM),
                     .grad_value = make_tensor(DA_F32, length, KV_HEADS, HEAD_DIM)};
}

static void free_tensors(tensors *t) {
    da_tensor *all[] = {&t->query,    &t->key,        &t->value,    &t->out,       &t->lse,
                        &t->grad_out, &t->grad_query, &t->grad_key, &t->grad_value};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        free(all[k]->data);
    }
}

static da_status forward(const da_attention *attention, const tensors *t) {
    return da_attention_forward(attention, &t->query, &t->key, &t->value, &t->out, &t->lse, NULL);
}

static da_status backward(const da_attention *attention, const tensors *t) {
    da_backward_tensors b;
    da_backward_tensors_init(&b);
    b.query = &t->query;
    b.key = &t->key;
    b.value = &t->value;
    b.out = &t->out;
    b.lse = &t->lse;
    b.grad_out = &t->grad_out;
    b.grad_query = &t->grad_query;
    b.grad_key = &t->grad_key;
    b.grad_value = &t->grad_value;
    return da_attention_backward(attention, &b, NULL);
}

static da_attention_config make_config(da_partition partition) {
    da_attention_config config;
    da_attention_config_init(&config);
    da_attention_config_set_patterns(&config, (int64_t[]){64, 300, N}, 3, (int64_t[]){1, 3, 8}, 3);
    config.causal = true;
    config.partition = partition;
    config.stripe = 50;
    config.split = DA_SPLIT_TOKENS;
    return config;
}

static da_status create(const da_comm *comm, const char *implementation, const da_attention_config *config,
                        da_context **context, da_attention **attention) {
    da_context_options options;
    da_context_options_init(&options);
    options.threads = 1;
    options.comm = comm;
    da_status status = da_context_create(&options, context);
    return status == DA_OK ? da_attention_create(*context, implementation, config, attention) : status;
}

/* ---- bytes --------------------------------------------------------------------------------------------------------- */

/* Rows of this rank, over the heads of a tensor, that those who hold `rows` need. Heads that share a key need it once. */
static int64_t count_rows(const da_attention_config *config, const da_part *rows, const da_part *columns, int64_t heads,
                          bool reversed) {
    int64_t count = 0, group = HEADS / heads;
    uint64_t *bits = malloc((size_t)(columns->length / 64 + 1) * sizeof *bits);
    for (int64_t head = 0; bits && head < heads; head++) {
        memset(bits, 0, (size_t)(columns->length / 64 + 1) * sizeof *bits);
        for (int64_t h = head * group; h < (head + 1) * group; h++) {
            da_head_patterns patterns;
            da_head_patterns_init(&patterns, config, N, HEADS, h);
            count += da_kept_mark(&patterns, rows, columns, reversed, bits);
        }
    }
    free(bits);
    return count;
}

/* Forward, keys and values go to those who see them; backward, they do so again, and then queries, the gradients of their
 * outputs and two terms each to those whom they see. */
static int64_t expected_bytes(const da_attention_config *config, const da_comm *comm, bool backward_too) {
    const int64_t row = BATCH * 2 * HEAD_DIM * (int64_t)sizeof(float), terms = BATCH * 2 * (int64_t)sizeof(double);
    int64_t bytes = 0;
    da_layout *layout;
    if (da_layout_create(NULL, config->partition, config->stripe, N, comm->ranks, NULL, &layout) != DA_OK) {
        return -1;
    }
    const da_part *mine = da_layout_part(layout, comm->rank);
    for (int rank = 0; rank < comm->ranks; rank++) {
        const da_part *theirs = da_layout_part(layout, rank);
        if (rank != comm->rank) {
            bytes += (backward_too ? 2 : 1) * count_rows(config, theirs, mine, KV_HEADS, false) * row;
            bytes += backward_too ? count_rows(config, theirs, mine, HEADS, true) * (row + terms) : 0;
        }
    }
    da_layout_free(layout);
    return bytes;
}

/* One configuration; prints what differs. */
static bool sends_what_it_should(const da_comm *comm, const char *implementation, da_partition partition,
                                 bool backward_too) {
    da_comm ours;
    da_counted counted;
    da_context *context = NULL;
    da_attention *attention = NULL;
    int64_t length = 0;
    da_attention_config config = make_config(partition);
    da_count_messages(&counted, comm, &ours);
    da_partition_length(partition, config.stripe, N, comm->ranks, comm->rank, &length);
    tensors t = make_tensors(length);
    da_status status = create(&ours, implementation, &config, &context, &attention);
    status = status == DA_OK ? forward(attention, &t) : status;
    status = status == DA_OK && backward_too ? backward(attention, &t) : status;
    int64_t expected = expected_bytes(&config, comm, backward_too);
    bool right = status == DA_OK && counted.bytes == expected;
    if (!right) {
        printf("rank %d: bytes: %s, %s, %s: sent %" PRId64 ", expected %" PRId64 "; %s\n", comm->rank, implementation,
               da_partition_name(partition), backward_too ? "both passes" : "forward", counted.bytes, expected,
               status == DA_OK ? "" : da_last_error_message());
    }
    da_attention_free(attention);
    da_context_free(context);
    free_tensors(&t);
    return right;
}

static bool check_bytes(const da_comm *comm) {
    static const char *const implementations[] = {"ring", "distributed"};
    bool right = true;
    for (int k = 0; k < 12; k++) {
        right &= sends_what_it_should(comm, implementations[k % 2], (da_partition)(k / 2 % 3), k / 6 == 1);
    }
    printf("rank %d: bytes: %s\n", comm->rank, right ? "as the kept rows say" : "wrong");
    return right;
}

/* ---- faults: the last rank's --------------------------------------------------------------------------------------- */

typedef struct fault {
    const char *name, *implementation;
    da_attention_config config;
    int signal;      /* that it sends itself after some calls; 0: none */
    bool wrong_call; /* it calls with a tensor of another head_dim */
} fault;

/* Calls until one fails. */
static da_status call_until_error(const da_comm *comm, const fault *f, const da_attention *attention, const tensors *t,
                                  double *last) {
    da_status status = DA_OK;
    bool last_rank = comm->rank == comm->ranks - 1;
    for (int call = 0; status == DA_OK; call++) {
        *last = da_seconds();
        if (last_rank && f->signal && call == 10) {
            raise(f->signal);
        }
        tensors ours = *t;
        ours.key.shape[3] -= last_rank && f->wrong_call && call == 10;
        status = forward(attention, &ours);
        status = status == DA_OK ? backward(attention, t) : status;
    }
    return status;
}

static void run_fault(const da_comm *comm, const fault *f) {
    da_context *context = NULL;
    da_attention *attention = NULL;
    int64_t length = 0;
    double last = da_seconds();
    da_partition_length(f->config.partition, f->config.stripe, N, comm->ranks, comm->rank, &length);
    tensors t = make_tensors(length);
    da_status status = create(comm, f->implementation, &f->config, &context, &attention);
    if (status == DA_OK) {
        status = call_until_error(comm, f, attention, &t, &last);
    }
    printf("rank %d: %s: %s after %.2f s: %s\n", comm->rank, f->name, da_status_name(status), da_seconds() - last,
           da_last_error_message());
    fflush(stdout);
    _exit(1); /* MPI_Finalize might wait for a rank that is gone */
}

static bool find_fault(const da_comm *comm, const char *name, const char *implementation, fault *out) {
    *out = (fault){.name = name, .implementation = implementation, .config = make_config(DA_PARTITION_ZIGZAG)};
    if (strcmp(name, "killed") == 0) {
        out->signal = SIGKILL;
    } else if (strcmp(name, "stopped") == 0) {
        out->signal = SIGSTOP;
    } else if (strcmp(name, "refused") == 0) {
        out->wrong_call = true;
    } else if (strcmp(name, "differs") == 0) {
        out->config.window = comm->rank == comm->ranks - 1 ? 100 : DA_NO_WINDOW;
    } else {
        return false;
    }
    return true;
}

/* attention_rank bytes, or attention_rank FAULT IMPLEMENTATION */
int main(int argc, char **argv) {
    da_comm comm;
    fault f;
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    bool counts = argc == 2 && strcmp(argv[1], "bytes") == 0;
    if (da_comm_mpi_create(MPI_COMM_WORLD, counts ? 60 : TIMEOUT, &comm) != DA_OK) {
        return 3;
    }
    if (argc == 3 && find_fault(&comm, argv[1], argv[2], &f)) {
        run_fault(&comm, &f);
    }
    bool right = counts && check_bytes(&comm);
    da_comm_mpi_free(&comm);
    MPI_Finalize();
    return right ? 0 : 1;
}
