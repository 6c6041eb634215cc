/* What estimates of attention are made of (attention/block_sparse): sums of rows, scores without values, and sums of
 * exponentials over groups of keys. Included by products_real.inc.h for f32. */

#define DA_ESTIMATE_HOOKS                                                                                              \
    .add_rows = add_rows, .score = score_block, .reduce_groups = reduce_groups, .weigh = weigh_groups,

static inline vec load_components(const char *row, da_dtype dtype, int c) {
    return dtype == DA_F32    ? vec_load((const real *)(const void *)row + c)
           : dtype == DA_BF16 ? vec_load_bf16((const uint16_t *)(const void *)row + c)
                              : vec_load_f16((const uint16_t *)(const void *)row + c);
}

/* Components of all the rows that do not fill a vector, or that do not lie beside each other. */
static real add_components(const char *row, int64_t step, int count, int64_t stride, da_dtype dtype, int first, int end,
                           float *sum) {
    int64_t size = (int64_t)da_dtype_size(dtype);
    real squares = 0;
    for (int k = 0; k < count; k++) {
        for (int c = first; c < end; c++) {
            real x = (real)da_dtype_load(dtype, row + k * step + c * stride * size);
            sum[c] += x;
            squares += x * x;
        }
    }
    return squares;
}

static float add_rows(const void *row, int64_t step, int count, int64_t stride, da_dtype dtype, int head_dim,
                      float *sum) {
    int whole = stride == 1 ? head_dim / VEC_LANES * VEC_LANES : 0;
    vec squares = vec_set1(0);
    for (int c = 0; c < whole; c += VEC_LANES) {
        vec total = vec_load(sum + c);
        for (int k = 0; k < count; k++) {
            vec x = load_components((const char *)row + k * step, dtype, c);
            squares = vec_fma(x, x, squares);
            total = vec_add(total, x);
        }
        vec_store(sum + c, total);
    }
    real rest = whole < head_dim ? add_components(row, step, count, stride, dtype, whole, head_dim, sum) : 0;
    return vec_reduce_add(squares) + rest;
}

static void score_block(const da_key_block *block, const da_query_tile *tile) {
    for (int panel = 0; panel * PANEL_KEYS < block->count; panel++) {
        score_panel(block, tile, panel);
    }
}

/* `count` numbers, at most a vector of them, with -infinity after them. */
static inline vec load_some(const real *from, int count) {
    real padded[VEC_LANES];
    if (count == VEC_LANES) {
        return vec_load(from);
    }
    for (int lane = 0; lane < VEC_LANES; lane++) {
        padded[lane] = lane < count ? from[lane] : (real)-INFINITY;
    }
    return vec_load(padded);
}

/* Scores from `key` on, of a group that ends at `end`. */
static inline vec biased_scores(const real *scores, const real *bias, int key, int end) {
    int count = end - key < VEC_LANES ? end - key : VEC_LANES;
    vec s = load_some(scores + key, count);
    return bias ? vec_add(s, load_some(bias + key, count)) : s;
}

static real largest_of(const float *scores, const float *bias, int first, int end) {
    vec largest = vec_set1((real)-INFINITY);
    for (int key = first; key < end; key += VEC_LANES) {
        largest = vec_max(largest, biased_scores(scores, bias, key, end));
    }
    return vec_reduce_max(largest);
}

/* 2^(score - reference), added up lane by lane. */
static inline vec sum_of(const float *scores, const float *bias, int first, int end, vec reference) {
    vec total = vec_set1(0);
    for (int key = first; key < end; key += VEC_LANES) {
        total = vec_add(total, vec_exp2(vec_sub(biased_scores(scores, bias, key, end), reference)));
    }
    return total;
}

/* As many groups as a vector has lanes, of whole vectors: numbers of a group are added up across vectors. */
static void sum_vector_of_groups(const float *scores, const float *bias, int first, int group, vec reference,
                                 float *sum) {
    vec of_group[VEC_LANES];
    for (int g = 0; g < VEC_LANES; g++) {
        of_group[g] = sum_of(scores, bias, first + g * group, first + (g + 1) * group, reference);
    }
    vec_transpose(of_group);
    for (int k = 1; k < VEC_LANES; k++) {
        of_group[0] = vec_add(of_group[0], of_group[k]);
    }
    vec_store(sum, of_group[0]);
}

/* Groups that are no whole vectors. */
static void sum_odd_groups(const float *scores, const float *bias, int first, int group, int groups, vec reference,
                           float *sum) {
    real powers[DA_BLOCK_KEYS + VEC_LANES];
    int count = group * groups;
    for (int key = 0; key < count; key += VEC_LANES) {
        vec_store(powers + key, vec_exp2(vec_sub(biased_scores(scores, bias, first + key, first + count), reference)));
    }
    for (int g = 0; g < groups; g++) {
        real total = 0;
        for (int key = g * group; key < (g + 1) * group; key++) {
            total += powers[key];
        }
        sum[g] = total;
    }
}

static void reduce_groups(const float *scores, const float *bias, int group, int groups, float *maximum, float *sum) {
    real most = largest_of(scores, bias, 0, group * groups);
    vec reference = vec_set1(most == (real)-INFINITY ? 0 : most);
    int g = 0;
    for (; group % VEC_LANES == 0 && g + VEC_LANES <= groups; g += VEC_LANES) {
        sum_vector_of_groups(scores, bias, g * group, group, reference, sum + g);
    }
    for (; (group % VEC_LANES == 0 || groups == 1) && g < groups; g++) {
        sum[g] = vec_reduce_add(sum_of(scores, bias, g * group, (g + 1) * group, reference));
    }
    if (g < groups) {
        sum_odd_groups(scores, bias, g * group, group, groups - g, reference, sum + g);
    }
    for (g = 0; g < groups; g++) {
        maximum[g] = sum[g] == 0 ? (real)-INFINITY : most;
    }
}

static void weigh_groups(const float *maximum, const float *sum, float largest, int64_t count, float *out) {
    int64_t whole = count / VEC_LANES * VEC_LANES;
    for (int64_t g = 0; g < whole; g += VEC_LANES) {
        vec power = vec_exp2(vec_sub(vec_load(maximum + g), vec_set1(largest)));
        vec_store(out + g, vec_mul(vec_load(sum + g), power));
    }
    if (whole < count) {
        real powers[VEC_LANES];
        vec_store(powers, vec_exp2(vec_sub(load_some(maximum + whole, (int)(count - whole)), vec_set1(largest))));
        for (int64_t g = whole; g < count; g++) {
            out[g] = sum[g] * powers[g - whole];
        }
    }
}
