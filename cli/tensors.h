/* Tensors that `run` reads: mapped files seen in the library's order of axes, converted only where that was asked. */
#ifndef DA_CLI_TENSORS_H
#define DA_CLI_TENSORS_H

#include "io/tensor_file.h"
#include "options.h"

/* Order of a file's axes; without the batch axis (rank 3) the batch is 1. */
typedef enum axis_order { ORDER_BNHD, ORDER_BHND } axis_order;

cli_reader read_axis_order; /* axis_order */

typedef struct loaded_tensor {
    const char *option, *path; /* "--q" and its value, for messages */
    da_tensor_file file;
    int rank;       /* of the file: 3 or 4 */
    da_tensor view; /* of the mapping, or of the converted copy */
    void *converted;
    size_t converted_bytes;
} loaded_tensor;

/* Opens a file of attention inputs. Returns CLI_CONTINUE, or CLI_FAILED after a message; loaded_close may follow. */
int loaded_open(loaded_tensor *loaded, const char *command, const char *option, const char *path, axis_order order);
/* Makes a dense copy of another data type; does nothing if it has that one. */
int loaded_convert(loaded_tensor *loaded, const char *command, da_dtype dtype, int threads);
void loaded_close(loaded_tensor *loaded);

/* A key mask of one byte each, (batch, n), or (n) where the batch is 1. */
typedef struct loaded_mask {
    da_tensor_file file;
    int64_t stride[2]; /* in bytes */
} loaded_mask;

int mask_open(loaded_mask *mask, const char *command, const char *path, int64_t batch, int64_t n);
void mask_close(loaded_mask *mask);

#endif
