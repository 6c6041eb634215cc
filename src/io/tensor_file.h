/* Tensors in files: .npy and .safetensors, read through a mapping and written atomically.
 *
 * A path may name a tensor of a .safetensors file: "weights.safetensors:layer.0.q" (all that follows the first
 * ".safetensors:" is the name). Without a name the file must hold exactly one tensor. What the file is, is decided by
 * its first bytes when reading and by the path's ending when writing.
 *
 * bf16 in .npy: NumPy has no such type; the two-byte void type that the ml_dtypes package writes ("<V2" or "|V2") is
 * read, and written, as bf16.
 *
 * Both formats allow data that is not aligned for its type (old .safetensors files have such headers). data is always
 * aligned: such a tensor, and only such a one, is copied into memory of its own.
 *
 * A mapped file must not be shortened while it is open: its pages are read when they are touched. Files made here never
 * are, since a new one takes the old one's name and leaves the old one's bytes alone. */
#ifndef DA_IO_TENSOR_FILE_H
#define DA_IO_TENSOR_FILE_H

#include "core/mapped_file.h"

#define DA_FILE_MAX_RANK 8

/* What a file can hold: the library's floating-point types, and integers. A bool is a byte; files do not promise that
 * it is 0 or 1, so read it as uint8_t. */
typedef enum da_file_type {
    DA_FILE_F32,
    DA_FILE_F64,
    DA_FILE_BF16,
    DA_FILE_F16,
    DA_FILE_BOOL,
    DA_FILE_I8,
    DA_FILE_U8,
    DA_FILE_I16,
    DA_FILE_U16,
    DA_FILE_I32,
    DA_FILE_U32,
    DA_FILE_I64,
    DA_FILE_U64
} da_file_type;

#define DA_FILE_TYPE_COUNT 13

/* A tensor that is mapped read-only. data stays valid until da_tensor_file_close; it is not NULL, but of a tensor
 * without elements there is nothing to read. */
typedef struct da_tensor_file {
    const void *data;
    da_file_type type;
    int rank;
    int64_t shape[DA_FILE_MAX_RANK];
    int64_t stride[DA_FILE_MAX_RANK]; /* in elements; not C order for a Fortran-ordered .npy */
    da_mapping mapping;               /* private */
} da_tensor_file;

/* Errors: DA_ERROR_IO (cannot be opened or mapped, no regular file), DA_ERROR_FORMAT (truncated, longer than the shape
 * says, corrupt, a header that lies, big-endian, a type that is not in the list, rank above 8),
 * DA_ERROR_INVALID_ARGUMENT (path or out missing; no such tensor name, or several tensors and no name: the message
 * lists the names), DA_ERROR_OUT_OF_MEMORY. The message starts with the path of the file, without a tensor's name. On
 * error *out is zero and needs no close. */
da_status da_tensor_file_open(const char *path, da_tensor_file *out);
/* Harmless on NULL, and on a zeroed or closed file. */
void da_tensor_file_close(da_tensor_file *file);

/* The data type of the library for a file type; DA_DTYPE_ANY for the integers and bool. */
da_dtype da_file_type_dtype(da_file_type type);
/* "f32", "bf16", "bool", "u8", ...; "?" for a value outside the enumeration. */
const char *da_file_type_name(da_file_type type);
/* Bytes of one element; 0 for a value outside the enumeration. */
size_t da_file_type_size(da_file_type type);

/* A file being written: space is reserved at once (so that a full disk is an error here, not a signal later), under a
 * temporary name beside the path; data is a writable mapping of the tensor in C order. */
typedef struct da_tensor_writer {
    void *data;
    size_t bytes;
    da_atomic_file file; /* private */
} da_tensor_writer;

/* `path` ends in .npy or .safetensors[:name] (name: "tensor" by default). Errors: DA_ERROR_INVALID_ARGUMENT (ending,
 * shape), DA_ERROR_IO (message: path and the system's words), DA_ERROR_OUT_OF_MEMORY. On error nothing is left
 * behind. */
da_status da_tensor_writer_open(const char *path, da_file_type type, int rank, const int64_t *shape,
                                da_tensor_writer *out);
/* The same with a temporary file "PATH.partial", which da_tensor_writer_keep leaves, for a later process to go on with.
 * resume: it must be there, as that process made it; otherwise it must not be there. Errors: also DA_ERROR_FORMAT. */
da_status da_tensor_writer_open_partial(const char *path, da_file_type type, int rank, const int64_t *shape,
                                        bool resume, da_tensor_writer *out);
/* Closes a partial file and leaves it. Harmless on a zeroed writer. */
void da_tensor_writer_keep(da_tensor_writer *writer);
/* Flushes, renames to the path, frees. On error the temporary file is removed and the old file, if any, is
 * untouched. */
da_status da_tensor_writer_commit(da_tensor_writer *writer);
/* Removes the temporary file. Harmless on a zeroed, committed or abandoned writer. */
void da_tensor_writer_abandon(da_tensor_writer *writer);

/* Where a process of the same file system finds the file of an open writer, to write a part of the tensor. */
typedef struct da_tensor_place {
    char temporary[4096];
    uint64_t offset, bytes; /* of the tensor in the file; of the whole file */
} da_tensor_place;

/* Errors: DA_ERROR_IO (the name is too long). */
da_status da_tensor_writer_place(const da_tensor_writer *writer, da_tensor_place *out);
/* Maps the file of another process' writer. When the joined writers have been flushed and left, the other one commits; if
 * any process abandons its writer, there is no file to commit. Errors: as da_tensor_writer_open. */
da_status da_tensor_writer_join(const da_tensor_place *place, da_tensor_writer *out);
/* Brings what this process wrote to the disk. */
da_status da_tensor_writer_flush(da_tensor_writer *writer);
/* Closes the file, which stays. Harmless on a zeroed writer. */
void da_tensor_writer_leave(da_tensor_writer *writer);

/* For a signal handler: unlinks the temporary file only (async-signal-safe). */
void da_tensor_writer_unlink(const da_tensor_writer *writer);

#endif
