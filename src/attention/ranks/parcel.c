#include "attention/ranks/parcel.h"

#include <string.h>

#include "attention/improved/passes.h"
#include "attention/ranks/packed_row.h"
#include "core/dtype.h"
#include "core/memory.h"
#include "core/parallel.h"

/* ---- which rows -------------------------------------------------------------------------------------------------- */

/* Lays out what a parcel's plan needs beside each head's rows; returns the bytes. */
static size_t lay_out(da_parcel *parcel, char *memory) {
    da_arena arena = {memory, 0};
    parcel->kept = da_arena_take(&arena, (size_t)parcel->heads, sizeof *parcel->kept);
    parcel->first_rows = da_arena_take(&arena, (size_t)parcel->heads, sizeof *parcel->first_rows);
    parcel->kept_memory = da_arena_take(&arena, (size_t)parcel->heads, sizeof *parcel->kept_memory);
    return arena.used;
}

size_t da_parcel_plan_bytes(int64_t heads) {
    da_parcel parcel = {.heads = heads};
    return lay_out(&parcel, NULL);
}

size_t da_parcel_marks_bytes(int64_t length) {
    return da_kept_words(length) * sizeof(uint64_t);
}

/* Marks the rows of one head of the tensors; of keys, those that any query head of the group needs. Returns how many. */
static int64_t mark_head(const da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo, const da_part *rows,
                         int64_t head, uint64_t *bits) {
    int64_t group = cargo->query_heads.all / parcel->heads, marked = 0;
    memset(bits, 0, da_parcel_marks_bytes(parcel->columns->length));
    for (int64_t h = head * group; h < (head + 1) * group; h++) {
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, meeting->config, meeting->layout->n, cargo->query_heads.all, h);
        marked += da_kept_mark(&patterns, rows, parcel->columns, cargo->backward != NULL, bits);
    }
    return marked;
}

/* Keeps the marked rows of a head, in no more memory than they need. */
static da_status keep_head(da_parcel *parcel, const da_allocator *allocator, int64_t head, int64_t count,
                           const uint64_t *bits) {
    int64_t length = parcel->columns->length;
    da_arena arena = {0};
    if (count > 0) {
        parcel->kept_memory[head] = da_allocate(allocator, 1, da_kept_bytes(length, count));
        if (!parcel->kept_memory[head]) {
            return DA_ERROR_OUT_OF_MEMORY;
        }
        arena.base = parcel->kept_memory[head];
    }
    da_kept_lay_out(&parcel->kept[head], &arena, length, count);
    da_kept_fill(&parcel->kept[head], bits);
    return DA_OK;
}

static da_status keep_all(da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo, const da_part *rows,
                          uint64_t *bits) {
    int64_t batch = cargo->first->shape[0];
    da_status status = DA_OK;
    for (int64_t head = 0; head < parcel->heads && status == DA_OK; head++) {
        int64_t count = mark_head(parcel, meeting, cargo, rows, head, bits);
        status = keep_head(parcel, da_context_allocator(meeting->context), head, count, bits);
        parcel->first_rows[head] = parcel->rows;
        parcel->rows += batch * count;
    }
    return status;
}

bool da_parcel_is_needed(const da_meeting *meeting, const da_cargo *cargo, const da_part *rows,
                         const da_part *columns) {
    for (int64_t head = 0; head < cargo->query_heads.all; head++) {
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, meeting->config, meeting->layout->n, cargo->query_heads.all, head);
        if (da_kept_count(&patterns, rows, columns, cargo->backward != NULL) > 0) {
            return true;
        }
    }
    return false;
}

da_status da_parcel_plan(da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo, int peer,
                         const da_part *rows, const da_part *columns) {
    const da_allocator *allocator = da_context_allocator(meeting->context);
    *parcel = (da_parcel){.peer = peer, .columns = columns, .heads = cargo->first->shape[2]};
    if (!da_parcel_is_needed(meeting, cargo, rows, columns)) {
        return DA_OK;
    }
    size_t bytes = lay_out(parcel, NULL);
    parcel->plan_memory = da_allocate(allocator, 1, bytes);
    if (!parcel->plan_memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(parcel->plan_memory, 0, bytes);
    lay_out(parcel, parcel->plan_memory);
    uint64_t *bits = da_allocate(allocator, 1, da_parcel_marks_bytes(columns->length));
    da_status status = bits ? keep_all(parcel, meeting, cargo, rows, bits) : DA_ERROR_OUT_OF_MEMORY;
    da_release(allocator, bits);
    return status;
}

/* ---- the message: rows of the first tensor, of the second, terms ------------------------------------------------- */

/* Two tensors' rows. The terms, which follow, are doubles. */
static size_t rows_end(int64_t rows, size_t row_bytes, bool with_terms) {
    size_t bytes = 2 * (size_t)rows * row_bytes;
    return with_terms ? (bytes + sizeof(double) - 1) / sizeof(double) * sizeof(double) : bytes;
}

static size_t terms_at(const da_parcel *parcel, const da_cargo *cargo) {
    return rows_end(parcel->rows, da_packed_row_bytes(cargo->first), true);
}

size_t da_parcel_message_bytes(int64_t rows, int64_t head_dim, da_dtype dtype, bool with_terms) {
    size_t end = rows_end(rows, (size_t)head_dim * da_dtype_size(dtype), with_terms);
    return with_terms ? end + (size_t)rows * 2 * sizeof(double) : end;
}

static size_t message_bytes(const da_parcel *parcel, const da_cargo *cargo) {
    return da_parcel_message_bytes(parcel->rows, cargo->first->shape[3], cargo->first->dtype, cargo->backward != NULL);
}

static da_status allocate_data(da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo) {
    parcel->data = da_allocate(da_context_allocator(meeting->context), 1, message_bytes(parcel, cargo));
    return parcel->data ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
}

typedef struct packing {
    const da_parcel *parcel;
    const da_cargo *cargo;
} packing;

/* The rows of one head of one batch element. */
static void pack_head(int64_t index, int thread, void *user) {
    const packing *job = user;
    const da_parcel *parcel = job->parcel;
    const da_cargo *cargo = job->cargo;
    int64_t batch = index / parcel->heads, head = index % parcel->heads;
    const da_kept *kept = &parcel->kept[head];
    size_t bytes = da_packed_row_bytes(cargo->first), at = (size_t)(parcel->first_rows[head] + batch * kept->count);
    char *first = parcel->data, *second = first + (size_t)parcel->rows * bytes;
    double(*terms)[2] = (double(*)[2])(void *)(parcel->data + terms_at(parcel, cargo));
    int64_t row = -1;
    for (int64_t number = 0; number < kept->count; number++, at++) {
        row = da_kept_next(kept, number, row);
        da_copy_packed_row(cargo->first, batch, row, head, first + at * bytes, false);
        da_copy_packed_row(cargo->second, batch, row, head, second + at * bytes, false);
        if (cargo->backward) {
            da_improved_query_terms(cargo->backward, batch, row, head, terms[at]);
        }
    }
}

da_status da_parcel_receive(da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo) {
    if (parcel->rows == 0) {
        return DA_OK;
    }
    da_status status = allocate_data(parcel, meeting, cargo);
    if (status == DA_OK) {
        status = da_comm_receive(meeting->comm, parcel->data, message_bytes(parcel, cargo), parcel->peer, cargo->tag,
                                 cargo->name, &parcel->message);
    }
    return status;
}

da_status da_parcel_send(da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo) {
    if (parcel->rows == 0) {
        return DA_OK;
    }
    da_status status = allocate_data(parcel, meeting, cargo);
    if (status == DA_OK) {
        packing job = {parcel, cargo};
        da_parallel_for(da_context_threads(meeting->context), cargo->first->shape[0] * parcel->heads, pack_head, &job);
        status = da_comm_send(meeting->comm, parcel->data, message_bytes(parcel, cargo), parcel->peer, cargo->tag,
                              cargo->name, &parcel->message);
    }
    return status;
}

da_status da_parcel_wait(da_parcel *parcel, const da_meeting *meeting) {
    return da_comm_wait(meeting->comm, &parcel->message);
}

da_source da_parcel_source(const da_parcel *parcel, const da_cargo *cargo) {
    const da_tensor *like = cargo->first;
    da_tensor rows = {.data = parcel->data,
                      .dtype = like->dtype,
                      .shape = {1, parcel->rows, 1, like->shape[3]},
                      .stride = {0, like->shape[3], 0, 1}};
    da_source source = {
        .part = parcel->columns, .tensors = {rows, rows}, .kept = parcel->kept, .first_rows = parcel->first_rows};
    source.tensors[DA_SECOND].data = parcel->data + (size_t)parcel->rows * da_packed_row_bytes(cargo->first);
    if (cargo->backward) {
        source.terms = (const double(*)[2])(const void *)(parcel->data + terms_at(parcel, cargo));
    }
    return source;
}

void da_parcel_free(da_parcel *parcel, const da_meeting *meeting) {
    const da_allocator *allocator = da_context_allocator(meeting->context);
    if (da_comm_give_up(meeting->comm, &parcel->message)) {
        da_release(allocator, parcel->data);
    }
    for (int64_t head = 0; parcel->plan_memory && head < parcel->heads; head++) {
        da_release(allocator, parcel->kept_memory[head]);
    }
    da_release(allocator, parcel->plan_memory);
    *parcel = (da_parcel){0};
}
