/* The generated cases of the module: written by generate_multihead_cases.py, all numbers as f64 or int64,
 * little-endian:
 *
 *   char magic[8] = "DAMULTI1"; int64 case_count; then case_count cases. An array is an int64 count and that many f64.
 *     char name[32]; int64 word_count; the words of multihead_case up to the patterns
 *     arrays: {eps, rope_base, xpos_scale_base, scale, dropout}, key_lengths, key_mask (empty: none), query, key,
 *             value, out, bound, grad_out, grad_query, grad_key, grad_value, {three tolerances}
 *     int64 parameter_count; of each: char name[32], arrays: values, gradient, {tolerance}
 */
#ifndef DA_TESTS_MULTIHEAD_CASES_H
#define DA_TESTS_MULTIHEAD_CASES_H

#include "dilated_attention_nn.h"
#include "support/packed_file.h"

#define MAX_CASE_PARAMETERS 16

typedef struct multihead_case {
    const char *name;
    da_multihead_config config;
    da_attention_config attention;
    int64_t batch, n;
    uint64_t seed;
    int input_of[3]; /* which of three inputs query, key and value are */
    case_array key_lengths, key_mask, inputs[3], out, bound, grad_out, grad_inputs[3], input_tolerances;
    int64_t parameter_count;
    struct {
        const char *name;
        case_array values, gradient, tolerance;
    } parameters[MAX_CASE_PARAMETERS];
} multihead_case;

typedef packed_file multihead_case_file;

/* Reads the file of the environment variable DA_MULTIHEAD_CASES_FILE, or else the one that the build made. Ends the
 * program with a message if it cannot. */
multihead_case_file multihead_case_file_open(void);
void multihead_case_file_close(multihead_case_file *file);

/* The next case; false after the last. */
bool multihead_case_next(multihead_case_file *file, multihead_case *out);

/* Parts of a case that other files of cases have, too, as module_words() in generate_multihead_cases.py has them. The first
 * sets everything else to its default, and returns the seed. */
uint64_t take_module_options(packed_file *file, da_multihead_config *config, da_attention_config *attention);
void take_module_patterns(packed_file *file, da_attention_config *attention);
void take_module_numbers(packed_file *file, da_multihead_config *config, da_attention_config *attention);

#endif
