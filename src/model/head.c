/* Logits exist for a chunk of rows at a time. Gradients as in the feed-forward: rows, then weights, then rows. */
#include "model/head.h"

#include <string.h>

#include "attention/workspace.h"
#include "core/parallel.h"
#include "model/cross_entropy.h"
#include "multihead/linear.h"

#define CHUNK_LOGITS ((int64_t)1 << 22) /* that a chunk has at most, if it is more than one block */

typedef struct pass {
    const da_head *head;
    int64_t rows, first_block, chunk_blocks;
    const void *x;
    const int32_t *targets;
    void *grad;
    double scale;                    /* of gradients; 0: the loss alone is wanted */
    double *losses;                  /* of blocks */
    void *normed, *logits, *scratch; /* of a chunk; scratch: (DA_ROW_BLOCK, width) a thread */
    da_norm_sums sums;
} pass;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static size_t lay_out(const da_head *head, int64_t rows, pass *p) {
    da_arena arena = {head->memory, 0};
    size_t real = da_dtype_size(head->real);
    int64_t blocks = CHUNK_LOGITS / (DA_ROW_BLOCK * head->words);
    p->chunk_blocks = blocks < 1 ? 1 : least(blocks, DA_CHUNK_BLOCKS);
    size_t chunk = (size_t)least(rows, p->chunk_blocks * DA_ROW_BLOCK), block = (size_t)least(rows, DA_ROW_BLOCK);
    p->losses = da_arena_take(&arena, (size_t)da_row_blocks(rows), sizeof(double));
    p->normed = da_arena_take(&arena, chunk * (size_t)head->width, real);
    p->logits = da_arena_take(&arena, chunk * (size_t)head->words, real);
    p->scratch = da_arena_take(&arena, (size_t)head->threads * block * (size_t)head->width, real);
    p->sums = (da_norm_sums){head->real, head->width,
                             da_arena_take(&arena, (size_t)da_norm_sums_elements(head->width), real)};
    return arena.used;
}

size_t da_head_bytes(da_dtype real, int threads, int64_t rows, int64_t words, int64_t width) {
    pass unused;
    const da_head head = {.real = real, .threads = threads, .words = words, .width = width};
    return lay_out(&head, rows, &unused);
}

static void logits_of(const da_head *head, int64_t count, const void *x, void *normed, void *logits) {
    da_layer_norm_forward(head->real, &head->norm, count, (da_matrix){x, head->width}, normed, head->width);
    da_product(head->real, DA_PRODUCT_B_TRANSPOSED, count, head->words, head->width, (da_matrix){normed, head->width},
               (da_matrix){head->weight, head->width}, false, logits, head->words);
}

/* ---- loss -------------------------------------------------------------------------------------------------------- */

static void loss_block(int64_t index, int thread, void *user) {
    const pass *p = user;
    const da_head *head = p->head;
    int64_t block = p->first_block + index, first = block * DA_ROW_BLOCK, count = least(p->rows - first, DA_ROW_BLOCK);
    void *normed = da_elements_on(p->normed, index * DA_ROW_BLOCK * head->width, head->real);
    void *logits = da_elements_on(p->logits, index * DA_ROW_BLOCK * head->words, head->real);
    const int32_t *targets = p->targets + first;
    logits_of(head, count, da_elements_on(p->x, first * head->width, head->real), normed, logits);
    p->losses[block] = p->scale == 0
                           ? da_cross_entropy(head->real, count, head->words, logits, targets)
                           : da_cross_entropy_gradient(head->real, count, head->words, p->scale, logits, targets);
}

static void grad_block(int64_t index, int thread, void *user) {
    const pass *p = user;
    const da_head *head = p->head;
    int64_t block = p->first_block + index, first = block * DA_ROW_BLOCK, count = least(p->rows - first, DA_ROW_BLOCK);
    int64_t row_elements = DA_ROW_BLOCK * head->width, width = head->width;
    void *grad_normed = da_elements_on(p->scratch, thread * least(row_elements, p->rows * width), head->real);
    void *grad = da_elements_on(p->grad, first * width, head->real);
    da_matrix logits = {da_elements_on(p->logits, index * DA_ROW_BLOCK * head->words, head->real), head->words};
    da_product(head->real, DA_PRODUCT_PLAIN, count, width, head->words, logits, (da_matrix){head->weight, width}, false,
               grad_normed, width);
    memset(grad, 0, (size_t)(count * width) * da_dtype_size(head->real));
    da_norm_block_backward(&p->sums, &head->norm, block, count, da_elements_on(p->x, first * width, head->real),
                           grad_normed, grad);
}

static double run(pass *p, const da_head_gradients *gradients) {
    const da_head *head = p->head;
    int64_t blocks = da_row_blocks(p->rows), targets = 0;
    double sum = 0;
    lay_out(head, p->rows, p);
    for (int64_t r = 0; r < p->rows; r++) {
        targets += p->targets[r] >= 0;
    }
    p->scale = gradients ? 1 / (double)targets : 0;
    for (; p->first_block < blocks; p->first_block += p->chunk_blocks) {
        int64_t count = least(blocks - p->first_block, p->chunk_blocks);
        int64_t rows = least(p->rows - p->first_block * DA_ROW_BLOCK, count * DA_ROW_BLOCK);
        da_parallel_for(head->threads, count, loss_block, p);
        if (gradients) {
            da_linear_gradient(head->real, head->threads, head->words, rows, head->width,
                               (da_matrix){p->logits, head->words}, (da_matrix){p->normed, head->width},
                               gradients->weight, NULL);
            da_norm_sums_clear(&p->sums);
            da_parallel_for(head->threads, count, grad_block, p);
            da_norm_sums_collect(&p->sums, gradients->norm_weight, gradients->norm_bias);
        }
    }
    for (int64_t block = 0; block < blocks; block++) {
        sum += p->losses[block];
    }
    return sum / (double)targets;
}

double da_head_loss(const da_head *head, int64_t rows, const void *x, const int32_t *targets) {
    pass p = {.head = head, .rows = rows, .x = x, .targets = targets};
    return run(&p, NULL);
}

double da_head_backward(const da_head *head, int64_t rows, const void *x, const int32_t *targets, void *grad,
                        const da_head_gradients *gradients) {
    pass p = {.head = head, .rows = rows, .x = x, .targets = targets, .grad = grad};
    return run(&p, gradients);
}

/* ---- logits ------------------------------------------------------------------------------------------------------ */

typedef struct logits_work {
    const da_head *head;
    int64_t rows;
    const void *x;
    void *scratch, *logits;
} logits_work;

static void logits_block(int64_t block, int thread, void *user) {
    const logits_work *w = user;
    const da_head *head = w->head;
    int64_t first = block * DA_ROW_BLOCK, count = least(w->rows - first, DA_ROW_BLOCK), width = head->width;
    logits_of(head, count, da_elements_on(w->x, first * width, head->real),
              da_elements_on(w->scratch, thread * least(DA_ROW_BLOCK, w->rows) * width, head->real),
              da_elements_on(w->logits, first * head->words, head->real));
}

void da_head_logits(const da_head *head, int64_t rows, const void *x, void *logits) {
    pass p;
    lay_out(head, rows, &p);
    logits_work work = {head, rows, x, p.scratch, logits};
    da_parallel_for(head->threads, da_row_blocks(rows), logits_block, &work);
}
