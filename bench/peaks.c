/* What this machine can do at most, all threads at once, as one line of JSON: multiply-adds in f32, in bf16 on
 * tiles or by dot products where the CPU has them, and bytes from memory. Usage: bench-peaks [THREADS]   (default: one per core) */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define ROUNDS 5
#define ROUND_SECONDS 0.02
/* Independent sums: more than the latency of a multiply-add times the units that do it, no more than registers. */
#define SUMS 12
/* What the factors are does not matter, if sums stay finite and normal. */
#define FACTOR 0.999f
#define ADDEND 0.001f
/* Bytes that all threads together read: several times any cache. */
#define MEMORY ((size_t)256 << 20)

/* Runs `steps` times SUMS multiply-adds of whole registers; returns something that depends on all of them. */
typedef float arithmetic(int64_t steps);

typedef struct vector_unit {
    arithmetic *run;
    int operations; /* of one instruction: two for each product */
    const char *name;
} vector_unit;

/* Keeps the compiler from leaving the loops out. */
static volatile float sink;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float run_avx512(int64_t steps) {
    const __m512 factor = _mm512_set1_ps(FACTOR), addend = _mm512_set1_ps(ADDEND);
    __m512 sums[SUMS], total = addend;
    for (int i = 0; i < SUMS; i++) {
        sums[i] = _mm512_set1_ps((float)(i + 1));
    }
    for (int64_t step = 0; step < steps; step++) {
        for (int i = 0; i < SUMS; i++) {
            sums[i] = _mm512_fmadd_ps(sums[i], factor, addend);
        }
    }
    for (int i = 0; i < SUMS; i++) {
        total = _mm512_add_ps(total, sums[i]);
    }
    return _mm512_cvtss_f32(total);
}

__attribute__((target("avx512f,avx512bw,avx512bf16"))) static float run_avx512_bf16(int64_t steps) {
    const __m512bh factor = (__m512bh)_mm512_set1_epi32(0x3a803a80), other = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    __m512 sums[SUMS], total = _mm512_setzero_ps();
    for (int i = 0; i < SUMS; i++) {
        sums[i] = _mm512_set1_ps((float)(i + 1));
    }
    for (int64_t step = 0; step < steps; step++) {
        for (int i = 0; i < SUMS; i++) {
            sums[i] = _mm512_dpbf16_ps(sums[i], factor, other);
        }
    }
    for (int i = 0; i < SUMS; i++) {
        total = _mm512_add_ps(total, sums[i]);
    }
    return _mm512_cvtss_f32(total);
}

/* Products of 16 x 32 by 32 x 16 bf16 on AMX tiles, with four sums. Factors differ in sign and size, since all ones would need
 * less current than numbers do, and run faster. */
__attribute__((target("amx-tile,amx-bf16"))) static float run_amx_bf16(int64_t steps) {
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
    return sums[0];
}

/* Whether the CPU has the tiles, and Linux lets this process use them. */
static int has_tiles(void) {
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    const long arch_req_xcomp_perm = 0x1023, tile_data = 18;
    unsigned a, b, c, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx_bf16) && (d & amx_tile) &&
           syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) == 0;
}

__attribute__((target("avx2,fma"))) static float run_avx2(int64_t steps) {
    const __m256 factor = _mm256_set1_ps(FACTOR), addend = _mm256_set1_ps(ADDEND);
    __m256 sums[SUMS], total = addend;
    for (int i = 0; i < SUMS; i++) {
        sums[i] = _mm256_set1_ps((float)(i + 1));
    }
    for (int64_t step = 0; step < steps; step++) {
        for (int i = 0; i < SUMS; i++) {
            sums[i] = _mm256_fmadd_ps(sums[i], factor, addend);
        }
    }
    for (int i = 0; i < SUMS; i++) {
        total = _mm256_add_ps(total, sums[i]);
    }
    return _mm256_cvtss_f32(total);
}
#endif

#if defined(__FP_FAST_FMAF)
#define MULTIPLY_ADD(sum) __builtin_fmaf(sum, FACTOR, ADDEND)
#else
#define MULTIPLY_ADD(sum) ((sum)*FACTOR + ADDEND)
#endif

/* What the compiler makes of plain C for the baseline of the architecture, whose registers have 16 bytes. */
static float run_portable(int64_t steps) {
    float sums[SUMS * 4], total = 0;
    for (int i = 0; i < SUMS * 4; i++) {
        sums[i] = (float)(i + 1);
    }
    for (int64_t step = 0; step < steps; step++) {
        for (int i = 0; i < SUMS * 4; i++) {
            sums[i] = MULTIPLY_ADD(sums[i]);
        }
    }
    for (int i = 0; i < SUMS * 4; i++) {
        total += sums[i];
    }
    return total;
}

static vector_unit f32_unit(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        return (vector_unit){run_avx512, 32, "avx512"};
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return (vector_unit){run_avx2, 16, "avx2"};
    }
#endif
    return (vector_unit){run_portable, 8, "portable"};
}

/* Without bf16 products its `run` is NULL. */
static vector_unit bf16_unit(void) {
#if defined(__x86_64__)
    if (has_tiles()) {
        return (vector_unit){run_amx_bf16, 2 * 16 * 16 * 32, "amx_bf16"};
    }
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512bf16")) {
        return (vector_unit){run_avx512_bf16, 64, "avx512_bf16"};
    }
#endif
    return (vector_unit){NULL, 0, ""};
}

/* ------------------------------------------------------------------------------------------------------------------ */

/* Seconds from the first thread's start to the last one's end. */
static double time_arithmetic(vector_unit unit, int threads, int64_t steps) {
    double start = 0, stop = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp barrier
#pragma omp master
        start = now();
        float result = unit.run(steps);
#pragma omp barrier
#pragma omp master
        {
            stop = now();
            sink = result;
        }
    }
    return stop - start;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *rates) {
    qsort(rates, ROUNDS, sizeof(rates[0]), compare);
    return rates[ROUNDS / 2];
}

static double flops_per_second(vector_unit unit, int threads) {
    int64_t steps = 1000;
    while (time_arithmetic(unit, threads, steps) < ROUND_SECONDS) {
        steps *= 2;
    }
    double rates[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        double operations = (double)SUMS * (double)unit.operations * (double)steps * (double)threads;
        rates[round] = operations / time_arithmetic(unit, threads, steps);
    }
    return median(rates);
}

static double time_reading(const uint64_t *memory, int64_t words, int threads) {
    uint64_t total = 0;
    double start = now();
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static)
    for (int64_t i = 0; i < words; i++) {
        total += memory[i];
    }
    double stop = now();
    sink = (float)total;
    return stop - start;
}

/* 0 if there is no memory for it. */
static double bytes_per_second(int threads) {
    const int64_t words = MEMORY / sizeof(uint64_t);
    uint64_t *memory = malloc(MEMORY);
    if (memory == NULL) {
        return 0;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < words; i++) {
        memory[i] = (uint64_t)i;
    }
    double rates[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        rates[round] = (double)MEMORY / time_reading(memory, words, threads);
    }
    free(memory);
    return median(rates);
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : omp_get_num_procs();
    if (argc > 2 || threads < 1 || threads > 1024) {
        fprintf(stderr, "usage: bench-peaks [THREADS]   THREADS: 1..1024\n");
        return 2;
    }
    vector_unit f32 = f32_unit(), bf16 = bf16_unit();
    printf("{\"threads\": %d, \"f32_unit\": \"%s\", \"f32\": %.6e", threads, f32.name, flops_per_second(f32, threads));
    if (bf16.run != NULL) {
        printf(", \"bf16_unit\": \"%s\", \"bf16\": %.6e", bf16.name, flops_per_second(bf16, threads));
    }
    printf(", \"read\": %.6e}\n", bytes_per_second(threads));
    return 0;
}
