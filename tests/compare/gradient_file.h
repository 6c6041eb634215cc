/* The generated cases of backward passes, written by generate_gradient_cases.py: the format of support/case_file.h, its
 * rows those of a forward pass with dropout, one for every query; then, in the same record,
 *
 *   double dropout; uint64 seed; int64 has_grad_lse
 *   grad_out             dense, like query
 *   double grad_lse      dense (batch, n, heads), if has_grad_lse
 *   rows of grad_query, of grad_key and of grad_value, each dense (batch, n, heads or kv_heads):
 *                     int64 terms, softmax_terms; double magnitude, products, softmax, stored, grad_out, lse, unit,
 *                     largest, exact[head_dim]
 */
#ifndef DA_TESTS_GRADIENT_FILE_H
#define DA_TESTS_GRADIENT_FILE_H

#include "support/case_file.h"

/* One row of a gradient. The figures, which ../compare/bounds.h makes a bound of, are described in ../tolerances.md. */
typedef struct gradient_row {
    int64_t terms;         /* pairs in its sum */
    int64_t softmax_terms; /* terms of the longest softmax that it depends on */
    double magnitude, products, softmax, stored, grad_out, lse, unit;
    double largest;
    double exact[];
} gradient_row;

enum { GRAD_QUERY, GRAD_KEY, GRAD_VALUE, GRADIENTS };

typedef struct gradient_case {
    const test_case *forward;
    double dropout;
    uint64_t seed;
    const void *grad_out;
    const double *grad_lse; /* or NULL */
    const unsigned char *rows[GRADIENTS];
} gradient_case;

/* The file that the build made, or that DA_GRADIENT_CASES_FILE in the environment names. */
case_file gradient_file_open(void);

gradient_case gradient_file_case(const case_file *file, int64_t number);

/* Row (b, i, h) of a gradient; h is a kv head for grad_key and grad_value. */
const gradient_row *gradient_file_row(const gradient_case *one, int gradient, int64_t b, int64_t i, int64_t h);

#endif
