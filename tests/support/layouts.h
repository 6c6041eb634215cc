/* Tensors of a test in many memory layouts, with guards around and gaps between the elements. */
#ifndef DA_TESTS_LAYOUTS_H
#define DA_TESTS_LAYOUTS_H

#include "dilated_attention.h"

typedef enum layout {
    LAYOUT_DENSE,       /* (batch, n, heads, head_dim) */
    LAYOUT_HEADS_FIRST, /* (batch, heads, n, head_dim) */
    LAYOUT_GAPS,        /* (n, batch, heads, head_dim) with odd gaps everywhere, channels 3 elements apart */
    LAYOUT_NEGATIVE,    /* (heads, batch, n, head_dim), every dimension runs backwards */
    LAYOUT_BROADCAST,   /* dense, all batch rows one memory (inputs only; their rows must be equal) */
    LAYOUT_COUNT
} layout;

const char *layout_name(layout kind);

typedef struct test_tensor {
    da_tensor view;
    unsigned char *memory;
    size_t bytes;
} test_tensor;

/* A tensor whose every byte, guards and gaps included, is 0xFF: NaN in each data type. */
test_tensor test_tensor_make(layout kind, da_dtype dtype, int64_t batch, int64_t n, int64_t heads, int64_t head_dim);
void test_tensor_free(test_tensor *tensor);

/* Fills the view from a dense (batch, n, heads, head_dim) array of some data type; the values must fit exactly. */
void test_tensor_fill(test_tensor *tensor, const void *dense, da_dtype dtype);

double test_tensor_get(const test_tensor *tensor, int64_t b, int64_t i, int64_t h, int64_t c);

/* True if no byte outside the view's elements was written. */
bool test_tensor_gaps_untouched(const test_tensor *tensor);

/* True if no element of the view is NaN (an element that was not written is). */
bool test_tensor_is_written(const test_tensor *tensor);

/* True if both views, of one shape and data type, hold the same bits. */
bool test_tensor_equal(const test_tensor *a, const test_tensor *b);

#endif
