/* What this machine can do at most, all threads at once, as one line of JSON: multiply-adds in f32, in bf16 on
 * tiles or by dot products where the CPU has them, and bytes from memory. Usage: bench-peaks [THREADS]   (default: one per core) */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "peak.h"

#define ROUNDS 5
/* Bytes that all threads together read: several times any cache. */
#define MEMORY ((size_t)256 << 20)

/* Instruction sets by how much they do, DA_ISA_AUTO at the end. */
static const da_isa for_f32[] = {DA_ISA_AVX512, DA_ISA_AVX2, DA_ISA_PORTABLE, DA_ISA_AUTO};
static const da_isa for_bf16[] = {DA_ISA_AMX_BF16, DA_ISA_AVX512_BF16, DA_ISA_AUTO};

/* The first that runs here; DA_ISA_AUTO if none does. */
static da_isa first_available(const da_isa *candidates) {
    while (*candidates != DA_ISA_AUTO && !da_isa_available(*candidates)) {
        candidates++;
    }
    return *candidates;
}

/* Prints name_unit and name. False, with a message, where there is no context. */
static bool print_arithmetic(const char *name, da_isa isa, da_dtype dtype, int threads) {
    da_context *context;
    da_context_options options;
    da_context_options_init(&options);
    options.isa = isa;
    options.threads = threads;
    if (da_context_create(&options, &context) != DA_OK) {
        fprintf(stderr, "bench-peaks: %s\n", da_last_error_message());
        return false;
    }
    printf(", \"%s_unit\": \"%s\", \"%s\": %.6e", name, da_isa_name(isa), name,
           peak_measure(context, dtype, ROUNDS).median);
    da_context_free(context);
    return true;
}

/* Keeps the compiler from leaving the reading out. */
static volatile uint64_t sink;

static double time_reading(const uint64_t *memory, int64_t words, int threads) {
    uint64_t total = 0;
    double start = cli_now();
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static)
    for (int64_t i = 0; i < words; i++) {
        total += memory[i];
    }
    double stop = cli_now();
    sink = total;
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
    return peak_of_rates(rates, ROUNDS).median;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : omp_get_num_procs();
    if (argc > 2 || threads < 1 || threads > DA_MAX_THREADS) {
        fprintf(stderr, "usage: bench-peaks [THREADS]   THREADS: 1..%d\n", DA_MAX_THREADS);
        return 2;
    }
    da_isa bf16 = first_available(for_bf16);
    printf("{\"threads\": %d", threads);
    if (!print_arithmetic("f32", first_available(for_f32), DA_F32, threads) ||
        (bf16 != DA_ISA_AUTO && !print_arithmetic("bf16", bf16, DA_BF16, threads))) {
        return 1;
    }
    printf(", \"read\": %.6e}\n", bytes_per_second(threads));
    return 0;
}
