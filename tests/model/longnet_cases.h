/* The generated cases of the language model, written by generate_longnet_cases.py (see packed_file.h):
 *
 *   char magic[8] = "DALNGNT1"; int64 case_count; then case_count cases:
 *     char name[64]; int64 words: data type, batch, n, vocabulary, layers, ffn_dim, activation, tied; those of the module;
 *     arrays: the module's numbers, {norm_eps, loss, its tolerance}, tokens, targets
 *     int64 parameter_count; of each: char name[64], arrays: values, gradient, {tolerance}
 */
#ifndef DA_TESTS_LONGNET_CASES_H
#define DA_TESTS_LONGNET_CASES_H

#include "dilated_attention_nn.h"
#include "support/packed_file.h"

#define MAX_LONGNET_PARAMETERS 128

typedef struct longnet_case {
    const char *name;
    da_longnet_config config;
    da_multihead_config multihead;
    da_attention_config attention;
    int64_t batch, n;
    uint64_t seed;
    double loss, loss_tolerance;
    case_array tokens, targets;
    int64_t parameter_count;
    struct {
        const char *name;
        case_array values, gradient, tolerance;
    } parameters[MAX_LONGNET_PARAMETERS];
} longnet_case;

/* The file of the environment variable DA_LONGNET_CASES_FILE, or else the one that the build made. */
packed_file longnet_cases_open(void);

/* The next case; false after the last. */
bool longnet_case_next(packed_file *file, longnet_case *out);

#endif
