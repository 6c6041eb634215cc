/* Files as memory: one mapped for reading, one made under a temporary name and renamed when it is whole. */
#ifndef DA_CORE_MAPPED_FILE_H
#define DA_CORE_MAPPED_FILE_H

#include "dilated_attention.h"

typedef struct da_mapping {
    void *base; /* NULL: nothing is mapped */
    size_t bytes;
} da_mapping;

/* Maps a regular file read-only. Never waits: a FIFO or a device is refused. Errors: DA_ERROR_IO, DA_ERROR_FORMAT (the
 * file is empty). */
da_status da_mapping_open(const char *path, da_mapping *out);

/* A read-only copy in memory of its own, aligned to a page. bytes > 0. */
da_status da_mapping_copy(const char *path, const void *data, size_t bytes, da_mapping *out);

void da_mapping_close(da_mapping *mapping);

/* A file that appears under its path only when it is whole. Several processes may write it: one creates it, the others join
 * it; when all have flushed what they wrote and have left, the first commits. Any of them may abandon it. */
typedef struct da_atomic_file {
    char *path, *temporary; /* temporary is NULL when there is no file */
    int descriptor;
    da_mapping mapping; /* writable */
} da_atomic_file;

/* Creates the temporary file beside the path with all its space reserved. A symbolic link is followed, so that it is
 * kept; what is there must be a regular file that may be written. */
da_status da_atomic_file_create(const char *path, uint64_t bytes, da_atomic_file *out);
/* Brings the bytes to the disk and renames. In any case nothing is left open, and no temporary file. */
da_status da_atomic_file_commit(da_atomic_file *file);
/* Harmless where there is no file. */
void da_atomic_file_abandon(da_atomic_file *file);

/* Maps the temporary file of `bytes` bytes that another process has created. */
da_status da_atomic_file_join(const char *temporary, uint64_t bytes, da_atomic_file *out);
/* Brings what was written through this mapping to the disk. */
da_status da_atomic_file_flush(da_atomic_file *file);
/* Closes the file and leaves it where it is, for the one who commits. Harmless where there is no file. */
void da_atomic_file_leave(da_atomic_file *file);

#endif
