#include "multihead/product_onednn.h"

#if defined(DA_HAVE_ONEDNN)

#include <dnnl.h>
#include <stdatomic.h>

bool da_onednn_f32(da_product_form form, const int64_t size[3], da_matrix a, da_matrix b, bool accumulate, float *c,
                   int64_t ldc) {
    return dnnl_sgemm(form == DA_PRODUCT_A_TRANSPOSED ? 'T' : 'N', form == DA_PRODUCT_B_TRANSPOSED ? 'T' : 'N', size[0],
                      size[1], size[2], 1, a.data, a.ld, b.data, b.ld, accumulate ? 1 : 0, c, ldc) == dnnl_success;
}

/* What a product of bf16 needs of oneDNN; all of it belongs to one call. Primitives are cheap: oneDNN caches what it compiled. */
typedef struct product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive;
    dnnl_memory_t operands[3];
} product;

static bool describe(const int64_t size[3], da_matrix a, da_matrix b, int64_t ldc, dnnl_memory_desc_t out[3]) {
    const dnnl_dims_t shapes[3] = {{size[0], size[2]}, {size[2], size[1]}, {size[0], size[1]}};
    const dnnl_dims_t strides[3] = {{a.ld, 1}, {1, b.ld}, {ldc, 1}};
    bool ok = true;
    for (int k = 0; ok && k < 3; k++) {
        dnnl_data_type_t type = k < 2 ? dnnl_bf16 : dnnl_f32;
        ok = dnnl_memory_desc_init_by_strides(&out[k], 2, shapes[k], type, strides[k]) == dnnl_success;
    }
    return ok;
}

static bool prepare(product *p, const dnnl_memory_desc_t descriptions[3]) {
    dnnl_matmul_desc_t matmul;
    return dnnl_engine_create(&p->engine, dnnl_cpu, 0) == dnnl_success &&
           dnnl_matmul_desc_init(&matmul, &descriptions[0], &descriptions[1], NULL, &descriptions[2]) == dnnl_success &&
           dnnl_primitive_desc_create(&p->description, &matmul, NULL, p->engine, NULL) == dnnl_success;
}

static bool execute(product *p, const dnnl_memory_desc_t descriptions[3], void *const data[3]) {
    static const int places[3] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
    dnnl_exec_arg_t arguments[3];
    bool ok = dnnl_primitive_create(&p->primitive, p->description) == dnnl_success &&
              dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) == dnnl_success;
    for (int k = 0; ok && k < 3; k++) {
        ok = dnnl_memory_create(&p->operands[k], &descriptions[k], p->engine, data[k]) == dnnl_success;
        arguments[k] = (dnnl_exec_arg_t){places[k], p->operands[k]};
    }
    return ok && dnnl_primitive_execute(p->primitive, p->stream, 3, arguments) == dnnl_success &&
           dnnl_stream_wait(p->stream) == dnnl_success;
}

static void release(product *p) {
    for (int k = 0; k < 3; k++) {
        dnnl_memory_destroy(p->operands[k]);
    }
    dnnl_primitive_destroy(p->primitive);
    dnnl_primitive_desc_destroy(p->description);
    dnnl_stream_destroy(p->stream);
    dnnl_engine_destroy(p->engine);
}

bool da_onednn_bf16(int64_t m, int64_t n, int64_t k, da_matrix a, da_matrix b, float *c, int64_t ldc) {
    const int64_t size[3] = {m, n, k};
    union { /* oneDNN takes inputs, too, by a pointer that is not const */
        const void *read;
        void *data;
    } x = {.read = a.data}, y = {.read = b.data};
    void *const data[3] = {x.data, y.data, c};
    dnnl_memory_desc_t descriptions[3];
    product p = {.engine = NULL};
    bool ok = describe(size, a, b, ldc, descriptions) && prepare(&p, descriptions) && execute(&p, descriptions, data);
    release(&p);
    return ok;
}

bool da_onednn_takes_bf16(void) {
    static const uint16_t one = 0x3f80;
    static atomic_int known; /* 0: not yet; 1: no; 2: yes */
    int state = atomic_load(&known);
    if (state == 0) {
        float result = 0;
        bool computes = da_onednn_bf16(1, 1, 1, (da_matrix){&one, 1}, (da_matrix){&one, 1}, &result, 1);
        state = computes && result == 1 ? 2 : 1;
        atomic_store(&known, state);
    }
    return state == 2;
}

#else

bool da_onednn_f32(da_product_form form, const int64_t size[3], da_matrix a, da_matrix b, bool accumulate, float *c,
                   int64_t ldc) {
    return false;
}

bool da_onednn_takes_bf16(void) {
    return false;
}

bool da_onednn_bf16(int64_t m, int64_t n, int64_t k, da_matrix a, da_matrix b, float *c, int64_t ldc) {
    return false;
}

#endif
