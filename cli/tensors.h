/* Tensors that `run` reads: mapped files seen in the library's order of axes, converted only where that was asked. */
#ifndef DA_CLI_TENSORS_H
#define DA_CLI_TENSORS_H

#include "io/tensor_file.h"
#include "options.h"
#include "pattern/layout.h"

/* Order of a file's axes; without the batch axis (rank 3) the batch is 1. */
typedef enum axis_order { ORDER_BNHD, ORDER_BHND } axis_order;

cli_reader read_axis_order; /* axis_order */

typedef struct loaded_tensor {
    const char *option, *path; /* "--q" and its value, for messages */
    da_tensor_file file;
    int rank;         /* of the file: 3 or 4 */
    int64_t shape[4]; /* of the file, in the library's order: batch, n, heads, head_dim */
    da_tensor view;   /* of the mapping, or of the copy; of the rows that were taken */
    void *converted;  /* a copy of those rows, or in another data type */
    size_t converted_bytes;
} loaded_tensor;

/* Opens a file of attention inputs. Returns CLI_CONTINUE, or CLI_FAILED after a message; loaded_close may follow. */
int loaded_open(loaded_tensor *loaded, const char *command, const char *option, const char *path, axis_order order);
/* Keeps the rows of a part alone: a view of the mapping if they are one stretch, otherwise a dense copy. */
int loaded_take(loaded_tensor *loaded, const char *command, const da_part *part, int threads);
/* Makes a dense copy of another data type; does nothing if it has that one. */
int loaded_convert(loaded_tensor *loaded, const char *command, da_dtype dtype, int threads);
void loaded_close(loaded_tensor *loaded);

/* A key mask of one byte each, (batch, n), or (n) where the batch is 1. */
typedef struct loaded_mask {
    da_tensor_file file;
    const uint8_t *data; /* of the mapping, or of the copy; NULL: there is no mask */
    uint8_t *copy;
    int64_t stride[2]; /* in bytes */
} loaded_mask;

int mask_open(loaded_mask *mask, const char *command, const char *path, int64_t batch, int64_t n);
/* Keeps the rows of a part alone. */
int mask_take(loaded_mask *mask, const char *command, const da_part *part, int64_t batch);
void mask_close(loaded_mask *mask);

/* The rows of a part that is one stretch, or none, as a view of a tensor of all. */
da_tensor view_stretch(const da_tensor *whole, const da_part *part);
/* Copies the rows of a part from a tensor of all to one of the part, or back; one data type, a head_dim of stride 1. */
void copy_part(const da_tensor *whole, const da_tensor *of_part, const da_part *part, bool back, int threads);

#endif
