/* Files as memory: one mapped for reading, one made under a temporary name and renamed when it is whole. */
#ifndef DA_CORE_MAPPED_FILE_H
#define DA_CORE_MAPPED_FILE_H

#include "dilated_attention.h"

typedef struct da_mapping {
    void *base; /* NULL: nothing is mapped */
    size_t bytes;
    bool is_copy; /* memory of its own, which no file would give back */
} da_mapping;

/* Maps a regular file read-only. Never waits: a FIFO or a device is refused. Errors: DA_ERROR_IO, DA_ERROR_FORMAT (the
 * file is empty). */
da_status da_mapping_open(const char *path, da_mapping *out);

/* A read-only copy in memory of its own, aligned to a page. bytes > 0. */
da_status da_mapping_copy(const char *path, const void *data, size_t bytes, da_mapping *out);

void da_mapping_close(da_mapping *mapping);

/* Around a page that is touched, Linux maps others that it has in memory: fault_around_bytes, and since 6.18 the whole folio,
 * which is a huge page at most. */
#define DA_MAPPED_AROUND ((size_t)2 << 20)

/* Lets go of the pages from `first` to first + bytes, and of those that may have been mapped around them: they need not be
 * resident any longer. They come back when they are touched, and what was written to them is kept. Of a copy nothing is let
 * go. */
void da_mapping_let_go(const da_mapping *mapping, const void *first, size_t bytes);

/* A file that appears under its path only when it is whole. Several processes may write it: one creates it, the others join
 * it; when all have flushed what they wrote and have left, the first commits. Any of them may abandon it. */
typedef struct da_atomic_file {
    char *path, *temporary; /* temporary is NULL when there is no file */
    int descriptor;
    bool is_partial;    /* stays under its temporary name where it cannot be renamed */
    da_mapping mapping; /* writable */
} da_atomic_file;

/* Creates the temporary file beside the path with all its space reserved. A symbolic link is followed, so that it is
 * kept; what is there must be a regular file that may be written. */
da_status da_atomic_file_create(const char *path, uint64_t bytes, da_atomic_file *out);
/* The same, but that the temporary name is the path's with ".partial" behind it, so that a later process can go on with
 * what da_atomic_file_keep leaves. resume: that file must be there, with so many bytes; otherwise it must not be there. Only
 * one process has it open at a time. Errors: also DA_ERROR_FORMAT (another size). */
da_status da_atomic_file_open_partial(const char *path, uint64_t bytes, bool resume, da_atomic_file *out);
/* Brings what was written so far to the disk. */
da_status da_atomic_file_sync(const da_atomic_file *file);
/* Leaves a partial file as it is. Harmless where there is no file. */
void da_atomic_file_keep(da_atomic_file *file);
/* Brings the bytes to the disk and renames. In any case nothing is left open, and no temporary file, a
 * partial one apart. */
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
