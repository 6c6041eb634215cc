#include "peak.h"

#include <omp.h>
#include <stdlib.h>

#include "clock.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define ROUND_SECONDS 0.02
/* Independent sums: more than the latency of a multiply-add times the units that do it, no more than registers. */
#define SUMS 12

/* Runs `steps` times SUMS multiply-adds of whole registers; returns something that depends on all of them. */
typedef double peak_loop(int64_t steps);

typedef struct peak_kernel {
    peak_loop *loop;
    int lanes; /* multiply-adds of an instruction */
} peak_kernel;

/* What the factors are does not matter, if sums stay finite and normal. */
#define FACTOR 0.999
#define ADDEND 0.001

#if defined(__x86_64__)
#define VECTOR_LOOP(name, isa, vector, scalar, set, multiply_add, store, lanes)                                        \
    __attribute__((target(isa))) static double name(int64_t steps) {                                                   \
        vector sums[SUMS];                                                                                             \
        const vector factor = set(FACTOR), addend = set(ADDEND);                                                       \
        for (int i = 0; i < SUMS; i++) {                                                                               \
            sums[i] = set((scalar)(i + 1));                                                                            \
        }                                                                                                              \
        for (int64_t step = 0; step < steps; step++) {                                                                 \
            for (int i = 0; i < SUMS; i++) {                                                                           \
                sums[i] = multiply_add(sums[i], factor, addend);                                                       \
            }                                                                                                          \
        }                                                                                                              \
        double total = 0;                                                                                              \
        for (int i = 0; i < SUMS; i++) {                                                                               \
            scalar members[lanes];                                                                                     \
            store(members, sums[i]);                                                                                   \
            total += (double)members[i % lanes];                                                                       \
        }                                                                                                              \
        return total;                                                                                                  \
    }

VECTOR_LOOP(loop_avx512_f32, "avx512f", __m512, float, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, 16)
VECTOR_LOOP(loop_avx512_f64, "avx512f", __m512d, double, _mm512_set1_pd, _mm512_fmadd_pd, _mm512_storeu_pd, 8)

/* bf16 dot products: two multiply-adds in each of 16 lanes. */
__attribute__((target("avx512f,avx512bf16"))) static double loop_avx512_bf16(int64_t steps) {
    __m512 sums[SUMS];
    const __m512i factor = _mm512_set1_epi32(0x00003f80), addend = _mm512_set1_epi32(0x00003c00);
    for (int i = 0; i < SUMS; i++) {
        sums[i] = _mm512_set1_ps((float)(i + 1));
    }
    for (int64_t step = 0; step < steps; step++) {
        for (int i = 0; i < SUMS; i++) {
            sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)factor, (__m512bh)addend);
        }
    }
    double total = 0;
    for (int i = 0; i < SUMS; i++) {
        float members[16];
        _mm512_storeu_ps(members, sums[i]);
        total += (double)members[i];
    }
    return total;
}

/* Products of 16 x 32 by 32 x 16 bf16 on AMX tiles, with four sums; a context that chose these instructions has the system's
 * permission. Factors differ in sign and size, since all ones would need less current than numbers do, and run faster. */
__attribute__((target("amx-tile,amx-bf16"))) static double loop_amx_bf16(int64_t steps) {
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } configuration = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    uint16_t factors[4][16 * 32];
    float sums[16 * 16];
    for (unsigned i = 0; i < 4 * 16 * 32; i++) {
        unsigned mixed = i * 2654435761u >> 16;
        factors[i / 512][i % 512] = (uint16_t)(0x3e00u + (mixed & 0xffu) + (mixed & 0x100u) * 0x80u);
    }
    /* The compilers' tile instructions do not all say what memory they use. */
    __asm__ volatile("" : : "r"(factors) : "memory");
    _tile_loadconfig(&configuration);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, factors[0], 64);
    _tile_loadd(5, factors[1], 64);
    _tile_loadd(6, factors[2], 64);
    _tile_loadd(7, factors[3], 64);
    for (int64_t step = 0; step < steps; step++) {
        for (int i = 0; i < SUMS; i += 4) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, 64);
    _tile_release();
    __asm__ volatile("" : : "r"(sums) : "memory");
    return (double)sums[0];
}

VECTOR_LOOP(loop_avx2_f32, "avx2,fma", __m256, float, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)
VECTOR_LOOP(loop_avx2_f64, "avx2,fma", __m256d, double, _mm256_set1_pd, _mm256_fmadd_pd, _mm256_storeu_pd, 4)
#endif

/* What the compiler makes of plain C for the baseline of the architecture, whose registers have 16 bytes. */
#define PORTABLE_LOOP(name, scalar, lanes)                                                                             \
    static double name(int64_t steps) {                                                                                \
        scalar sums[SUMS * lanes];                                                                                     \
        for (int i = 0; i < SUMS * lanes; i++) {                                                                       \
            sums[i] = (scalar)(i + 1);                                                                                 \
        }                                                                                                              \
        for (int64_t step = 0; step < steps; step++) {                                                                 \
            _Pragma("omp simd") for (int i = 0; i < SUMS * lanes; i++) {                                               \
                sums[i] = sums[i] * (scalar)FACTOR + (scalar)ADDEND;                                                   \
            }                                                                                                          \
        }                                                                                                              \
        double total = 0;                                                                                              \
        for (int i = 0; i < SUMS * lanes; i++) {                                                                       \
            total += (double)sums[i];                                                                                  \
        }                                                                                                              \
        return total;                                                                                                  \
    }

PORTABLE_LOOP(loop_portable_f32, float, 4)
PORTABLE_LOOP(loop_portable_f64, double, 2)

static peak_kernel choose_kernel(da_isa isa, da_dtype dtype) {
    bool wide = dtype == DA_F64;
#if defined(__x86_64__)
    if (isa == DA_ISA_AVX512_BF16 && dtype == DA_BF16) {
        return (peak_kernel){loop_avx512_bf16, 32};
    }
    if (isa == DA_ISA_AMX_BF16 && dtype == DA_BF16) {
        return (peak_kernel){loop_amx_bf16, 16 * 16 * 32};
    }
    if (isa == DA_ISA_AVX512 || isa == DA_ISA_AVX512_BF16 || isa == DA_ISA_AMX_BF16) {
        return wide ? (peak_kernel){loop_avx512_f64, 8} : (peak_kernel){loop_avx512_f32, 16};
    }
    if (isa == DA_ISA_AVX2) {
        return wide ? (peak_kernel){loop_avx2_f64, 4} : (peak_kernel){loop_avx2_f32, 8};
    }
#endif
    return wide ? (peak_kernel){loop_portable_f64, 2} : (peak_kernel){loop_portable_f32, 4};
}

/* Keeps the compiler from leaving the loops out. */
static volatile double sink;

/* Seconds for one round: from the first thread's start to the last one's end. */
static double time_round(peak_kernel kernel, int threads, int64_t steps) {
    double start = 0, stop = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp barrier
#pragma omp master
        start = cli_now();
        double result = kernel.loop(steps);
#pragma omp barrier
#pragma omp master
        {
            stop = cli_now();
            sink = result;
        }
    }
    return stop - start;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

peak peak_of_rates(double *rates, int rounds) {
    qsort(rates, (size_t)rounds, sizeof(rates[0]), compare_doubles);
    return (peak){.median = rates[rounds / 2], .best = rates[rounds - 1], .rounds = rounds};
}

peak peak_measure(const da_context *context, da_dtype dtype, int rounds) {
    peak_kernel kernel = choose_kernel(da_context_isa(context), dtype);
    int threads = da_context_threads(context);
    int64_t steps = 1000;
    while (time_round(kernel, threads, steps) < ROUND_SECONDS) {
        steps *= 2;
    }
    double rates[PEAK_MAX_ROUNDS];
    double operations = 2.0 * SUMS * (double)kernel.lanes * (double)steps * (double)threads;
    for (int round = 0; round < rounds; round++) {
        rates[round] = operations / time_round(kernel, threads, steps);
    }
    return peak_of_rates(rates, rounds);
}
