/* What estimates of attention are made of (attention/block_sparse): sums of rows, scores without values, and sums of
 * exponentials over groups of keys. Included by products_real.inc.h for f32. */

#define DA_ESTIMATE_HOOKS                                                                                              \
    .add_row = add_row, .score = score_block, .reduce_groups = reduce_groups, .weigh = weigh_groups,

static float add_row(const void *row, int64_t stride, da_dtype dtype, int head_dim, float *sum) {
    real loaded[DA_MAX_HEAD_DIM];
    const real *components = row;
    int whole = head_dim / VEC_LANES * VEC_LANES;
    vec squares = vec_set1(0);
    if (stride != 1 || dtype != DA_F32) {
        load_row(row, stride, dtype, head_dim, loaded);
        components = loaded;
    }
    for (int c = 0; c < whole; c += VEC_LANES) {
        vec x = vec_load(components + c);
        squares = vec_fma(x, x, squares);
        vec_store(sum + c, vec_add(vec_load(sum + c), x));
    }
    real rest = 0;
    for (int c = whole; c < head_dim; c++) {
        rest += components[c] * components[c];
        sum[c] += components[c];
    }
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

/* Groups that do not fill a vector: with the largest score of all in place of each group's own. */
static void reduce_small_groups(const float *scores, const float *bias, int group, int groups, float *maximum,
                                float *sum) {
    real powers[DA_BLOCK_KEYS + VEC_LANES];
    int count = group * groups;
    vec largest = vec_set1((real)-INFINITY);
    for (int key = 0; key < count; key += VEC_LANES) {
        largest = vec_max(largest, biased_scores(scores, bias, key, count));
    }
    real most = vec_reduce_max(largest), reference = most == (real)-INFINITY ? 0 : most;
    for (int key = 0; key < count; key += VEC_LANES) {
        vec_store(powers + key, vec_exp2(vec_sub(biased_scores(scores, bias, key, count), vec_set1(reference))));
    }
    for (int g = 0; g < groups; g++) {
        real total = 0;
        for (int key = g * group; key < (g + 1) * group; key++) {
            total += powers[key];
        }
        maximum[g] = total == 0 ? (real)-INFINITY : most;
        sum[g] = total;
    }
}

static void reduce_groups(const float *scores, const float *bias, int group, int groups, float *maximum, float *sum) {
    if (group < VEC_LANES && groups > 1) {
        reduce_small_groups(scores, bias, group, groups, maximum, sum);
        return;
    }
    for (int g = 0; g < groups; g++) {
        int first = g * group, end = first + group;
        vec largest = vec_set1((real)-INFINITY), total = vec_set1(0);
        for (int key = first; key < end; key += VEC_LANES) {
            largest = vec_max(largest, biased_scores(scores, bias, key, end));
        }
        real most = maximum[g] = vec_reduce_max(largest);
        if (most == (real)-INFINITY) { /* no key */
            sum[g] = 0;
            continue;
        }
        for (int key = first; key < end; key += VEC_LANES) {
            total = vec_add(total, vec_exp2(vec_sub(biased_scores(scores, bias, key, end), vec_set1(most))));
        }
        sum[g] = vec_reduce_add(total);
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
