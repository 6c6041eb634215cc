/* Rows of tensors in the type of sums. Included by products, for their packing and for the backward pass. */

static void load_strided_row(const void *row, int64_t stride, da_dtype dtype, int count, real *out) {
    int64_t step = stride * (int64_t)da_dtype_size(dtype);
    for (int c = 0; c < count; c++) {
        out[c] = (real)da_dtype_load(dtype, (const char *)row + c * step);
    }
}

/* What a library's copying costs beyond the copy is felt with rows of so few numbers. */
static void copy_row(const real *row, int count, real *out) {
    int c = 0;
    for (; c + VEC_LANES <= count; c += VEC_LANES) {
        vec_store(out + c, vec_load(row + c));
    }
    for (; c < count; c++) {
        out[c] = row[c];
    }
}

/* One row of a tensor as reals. */
static void load_row(const void *row, int64_t stride, da_dtype dtype, int count, real *out) {
    if (stride != 1) {
        load_strided_row(row, stride, dtype, count, out);
        return;
    }
#if DA_REAL_IS_DOUBLE
    copy_row(row, count, out);
#else
    const uint16_t *halves = row;
    int whole = count / VEC_LANES * VEC_LANES;
    if (dtype == DA_F32) {
        copy_row(row, count, out);
    } else if (dtype == DA_BF16) {
        for (int c = 0; c < whole; c += VEC_LANES) {
            vec_store(out + c, vec_load_bf16(halves + c));
        }
        load_strided_row(halves + whole, 1, dtype, count - whole, out + whole);
    } else {
        for (int c = 0; c < whole; c += VEC_LANES) {
            vec_store(out + c, vec_load_f16(halves + c));
        }
        load_strided_row(halves + whole, 1, dtype, count - whole, out + whole);
    }
#endif
}

static double dot_rows(const void *a, int64_t a_stride, const void *b, int64_t b_stride, da_dtype dtype, int head_dim) {
    real left[DA_MAX_HEAD_DIM], right[DA_MAX_HEAD_DIM];
    int whole = head_dim / VEC_LANES * VEC_LANES;
    vec sum = vec_set1(0);
    load_row(a, a_stride, dtype, head_dim, left);
    load_row(b, b_stride, dtype, head_dim, right);
    for (int c = 0; c < whole; c += VEC_LANES) {
        sum = vec_fma(vec_load(left + c), vec_load(right + c), sum);
    }
    real rest = 0;
    for (int c = whole; c < head_dim; c++) {
        rest += left[c] * right[c];
    }
    return (double)(vec_reduce_add(sum) + rest);
}
