/* What the readers and writers of the two formats share: the layout of a tensor in a file. The formats know bytes in
 * memory only; files are opened in tensor_file.c, through core/mapped_file.c. */
#ifndef DA_IO_FORMATS_H
#define DA_IO_FORMATS_H

#include "io/tensor_file.h"

/* Where a tensor lies in a file. */
typedef struct da_file_layout {
    da_file_type type;
    int rank;
    int64_t shape[DA_FILE_MAX_RANK];
    int64_t stride[DA_FILE_MAX_RANK]; /* in elements */
    uint64_t offset;                  /* of the first element, from the start of the file */
    uint64_t bytes;
} da_file_layout;

/* Fills all but the offset, in C or Fortran order. Returns false if a dimension is negative, or if the bytes of the
 * tensor, with 1 for each dimension of 0, are beyond int64_t: then strides could overflow. */
bool da_file_layout_set(da_file_layout *layout, da_file_type type, int rank, const int64_t *shape, bool fortran_order);

/* A header to be put before the data; release the bytes with da_release(NULL, ...). */
typedef struct da_file_header {
    char *bytes;
    size_t length; /* a multiple of DA_FILE_ALIGNMENT */
} da_file_header;

#define DA_FILE_ALIGNMENT 64

/* Text of a file made fit for a message: at most DA_QUOTE_BYTES - 1 bytes, control characters as '?', "..." where it
 * was cut. Returns buffer. */
#define DA_QUOTE_BYTES 80
const char *da_quote(char buffer[DA_QUOTE_BYTES], const char *text, size_t length);

/* .npy, format versions 1 to 3. The file must be as long as header and shape say, no longer. */
bool da_npy_is(const unsigned char *bytes, size_t size);
da_status da_npy_read(const char *path, const unsigned char *bytes, size_t size, da_file_layout *out);
da_status da_npy_header(const da_file_layout *layout, da_file_header *out);

/* .safetensors. The whole header is checked, whichever tensor is asked for; name NULL: the only one. */
bool da_safetensors_is(const unsigned char *bytes, size_t size);
da_status da_safetensors_read(const char *path, const char *name, const unsigned char *bytes, size_t size,
                              da_file_layout *out);
/* Calls `each` for the name of every tensor, by offset, until it returns something else than DA_OK, which is returned. */
da_status da_safetensors_names(const char *path, const unsigned char *bytes, size_t size,
                               da_status (*each)(const char *name, void *user), void *user);
/* The same with the layout of each: all types must be readable. */
da_status da_safetensors_layouts(const char *path, const unsigned char *bytes, size_t size,
                                 da_status (*each)(const char *name, const da_file_layout *layout, void *user),
                                 void *user);
/* The same for keys and values of the metadata, which may be missing. */
da_status da_safetensors_metadata(const char *path, const unsigned char *bytes, size_t size,
                                  da_status (*each)(const char *key, const char *value, void *user), void *user);
/* Metadata of a file that is written: pairs of texts. */
typedef struct da_file_note {
    const char *key, *value;
} da_file_note;
/* Of `count` tensors whose data follow one another, without gaps, behind the header. The names must differ. notes may be
 * NULL, and their keys must differ. */
da_status da_safetensors_header(const char *path, const char *const *names, const da_file_layout *layouts, size_t count,
                                const da_file_note *notes, size_t note_count, da_file_header *out);

#endif
