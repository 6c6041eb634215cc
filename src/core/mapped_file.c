/* Mapping files, and writing them atomically. */
#define _FILE_OFFSET_BITS 64
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "core/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/memory.h"

static da_status report_system(const char *path, const char *what, int error) {
    char words[128];
    if (strerror_r(error, words, sizeof words) != 0) {
        snprintf(words, sizeof words, "error %d", error);
    }
    return da_report(DA_ERROR_IO, "%s: %s: %s", path, what, words);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Reading
 */

static da_status map_descriptor(const char *path, int descriptor, da_mapping *out) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) {
        return report_system(path, "cannot be examined", errno);
    }
    if (!S_ISREG(status.st_mode)) {
        return da_report(DA_ERROR_IO, "%s: is %s; a regular file is needed", path,
                         S_ISDIR(status.st_mode)    ? "a directory"
                         : S_ISFIFO(status.st_mode) ? "a pipe"
                                                    : "no regular file");
    }
    if (status.st_size <= 0) {
        return da_report(DA_ERROR_FORMAT, "%s: the file is empty", path);
    }
    if ((uintmax_t)status.st_size > SIZE_MAX) {
        return report_system(path, "cannot be mapped", EFBIG);
    }
    void *base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (base == MAP_FAILED) {
        return report_system(path, "cannot be mapped", errno);
    }
    *out = (da_mapping){.base = base, .bytes = (size_t)status.st_size};
    return DA_OK;
}

da_status da_mapping_open(const char *path, da_mapping *out) {
    *out = (da_mapping){0};
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (descriptor < 0) {
        return report_system(path, "cannot be opened", errno);
    }
    da_status status = map_descriptor(path, descriptor, out);
    close(descriptor);
    return status;
}

da_status da_mapping_copy(const char *path, const void *data, size_t bytes, da_mapping *out) {
    *out = (da_mapping){0};
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "%s: no memory for an aligned copy of %zu bytes", path, bytes);
    }
    memcpy(base, data, bytes);
    *out = (da_mapping){.base = base, .bytes = bytes, .is_copy = true};
    return DA_OK;
}

void da_mapping_let_go(const da_mapping *mapping, const void *first, size_t bytes) {
    uintptr_t base = (uintptr_t)mapping->base, last = base + mapping->bytes;
    uintptr_t from = (uintptr_t)first / DA_MAPPED_AROUND * DA_MAPPED_AROUND;
    uintptr_t end = ((uintptr_t)first + bytes + DA_MAPPED_AROUND - 1) / DA_MAPPED_AROUND * DA_MAPPED_AROUND;
    from = from < base ? base : from;
    end = end > last ? last : end;
    if (!mapping->is_copy && from < end) { /* the mapping begins at a page; its end is rounded up to one */
        madvise((void *)from, end - from, MADV_DONTNEED);
    }
}

void da_mapping_close(da_mapping *mapping) {
    if (mapping->base != NULL) {
        munmap(mapping->base, mapping->bytes);
    }
    *mapping = (da_mapping){0};
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Writing
 */

static char *copy_text(const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = da_allocate(NULL, bytes, 1);
    return copy != NULL ? memcpy(copy, text, bytes) : NULL;
}

/* The path to rename to: behind symbolic links, and checked now rather than when everything has been computed. */
static da_status resolve_target(const char *path, char **out) {
    struct stat status;
    char *resolved = NULL;
    if (lstat(path, &status) == 0) {
        if (S_ISLNK(status.st_mode)) {
            resolved = realpath(path, NULL);
            if (resolved == NULL || stat(resolved, &status) != 0) {
                int error = errno;
                free(resolved);
                return report_system(path, "the symbolic link cannot be followed", error);
            }
        }
        da_status refused = DA_OK;
        if (!S_ISREG(status.st_mode)) {
            refused = da_report(DA_ERROR_IO, "%s: is %s; only a regular file is replaced", path,
                                S_ISDIR(status.st_mode) ? "a directory" : "no regular file");
        } else if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0) {
            refused = report_system(path, "cannot be replaced", errno);
        }
        if (refused != DA_OK) {
            free(resolved);
            return refused;
        }
    } else if (errno != ENOENT) {
        return report_system(path, "cannot be written", errno);
    }
    *out = copy_text(resolved != NULL ? resolved : path);
    free(resolved);
    return *out != NULL ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
}

/* Opens a file of a name that nobody has, in the folder of file->path. O_EXCL and not mkstemp: the system then applies
 * the umask to the usual mode, and the umask itself cannot be asked for without changing it. */
static da_status open_temporary(const char *path, da_atomic_file *file) {
    enum { NAME_BYTES = 48, ATTEMPTS = 100 };
    const char *slash = strrchr(file->path, '/');
    int folder = slash != NULL ? (int)(slash - file->path) + 1 : 0;
    size_t bytes = (size_t)folder + NAME_BYTES;
    char *name = da_allocate(NULL, bytes, 1);
    if (name == NULL) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    int error = EEXIST;
    for (unsigned attempt = 0; attempt < ATTEMPTS && error == EEXIST; ++attempt) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(name, bytes, "%.*s.%lx-%lx%x.tmp", folder, file->path, (unsigned long)getpid(),
                 (unsigned long)now.tv_nsec, attempt);
        file->descriptor = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
        error = file->descriptor >= 0 ? 0 : errno;
    }
    if (error != 0) {
        da_release(NULL, name);
        return report_system(path, "no file can be created beside it", error);
    }
    file->temporary = name;
    return DA_OK;
}

/* Reserves all blocks, because a write into a mapping that finds no block free is a SIGBUS. */
static int reserve_space(int descriptor, uint64_t bytes) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur) {
        return EFBIG; /* asking the system would raise SIGXFSZ, which ends the process by default */
    }
    int error;
    do {
        error = posix_fallocate(descriptor, 0, (off_t)bytes);
    } while (error == EINTR);
    return error;
}

static da_status map_to_write(const char *path, uint64_t bytes, da_atomic_file *file) {
    void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file->descriptor, 0);
    if (base == MAP_FAILED) {
        return report_system(path, "cannot be mapped for writing", errno);
    }
    file->mapping = (da_mapping){.base = base, .bytes = (size_t)bytes};
    return DA_OK;
}

static da_status reserve_and_map(const char *path, uint64_t bytes, da_atomic_file *file) {
    if (bytes > SIZE_MAX || bytes > INT64_MAX) {
        return report_system(path, "cannot be written", EFBIG);
    }
    int error = reserve_space(file->descriptor, bytes);
    if (error != 0) {
        char what[64];
        snprintf(what, sizeof what, "%llu bytes cannot be reserved", (unsigned long long)bytes);
        return report_system(path, what, error);
    }
    return map_to_write(path, bytes, file);
}

/* A name that others must not have open: a lock is held until the file is closed. */
static da_status open_partial(bool resume, da_atomic_file *file) {
    size_t bytes = strlen(file->path) + sizeof ".partial";
    char *name = da_allocate(NULL, bytes, 1);
    if (name == NULL) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    snprintf(name, bytes, "%s.partial", file->path);
    file->descriptor = open(name, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW | (resume ? 0 : O_CREAT | O_EXCL), 0666);
    da_status status = DA_OK;
    if (file->descriptor < 0) {
        status = errno == EEXIST ? da_report(DA_ERROR_IO,
                                             "%s: is there, left by a run that was stopped; allowed: to resume it, or "
                                             "to remove it",
                                             name)
                                 : report_system(name, "cannot be opened", errno);
    } else if (flock(file->descriptor, LOCK_EX | LOCK_NB) != 0) {
        status = report_system(name, "another process has it open", errno);
    }
    if (status == DA_OK) {
        file->temporary = name;
        file->is_partial = true;
        return DA_OK;
    }
    if (file->descriptor >= 0) {
        close(file->descriptor);
    }
    da_release(NULL, name);
    return status;
}

static da_status check_partial(const da_atomic_file *file, uint64_t bytes) {
    struct stat status;
    if (fstat(file->descriptor, &status) != 0) {
        return report_system(file->temporary, "cannot be examined", errno);
    }
    if (!S_ISREG(status.st_mode) || (uint64_t)status.st_size != bytes) {
        return da_report(DA_ERROR_FORMAT, "%s: has %lld bytes; allowed: %llu, those of the whole file", file->temporary,
                         (long long)status.st_size, (unsigned long long)bytes);
    }
    return DA_OK;
}

da_status da_atomic_file_open_partial(const char *path, uint64_t bytes, bool resume, da_atomic_file *out) {
    *out = (da_atomic_file){.descriptor = -1};
    da_status status = resolve_target(path, &out->path);
    if (status != DA_OK) {
        return status;
    }
    status = open_partial(resume, out);
    if (status != DA_OK) {
        da_release(NULL, out->path);
        out->path = NULL;
        return status;
    }
    status = resume ? check_partial(out, bytes) : DA_OK;
    if (status == DA_OK) {
        status = reserve_and_map(path, bytes, out);
    }
    if (status != DA_OK) {
        resume ? da_atomic_file_keep(out) : da_atomic_file_abandon(out);
    }
    return status;
}

da_status da_atomic_file_create(const char *path, uint64_t bytes, da_atomic_file *out) {
    *out = (da_atomic_file){.descriptor = -1};
    da_status status = resolve_target(path, &out->path);
    if (status != DA_OK) {
        return status;
    }
    status = open_temporary(path, out);
    if (status != DA_OK) {
        da_release(NULL, out->path);
        out->path = NULL;
        return status;
    }
    status = reserve_and_map(path, bytes, out);
    if (status != DA_OK) {
        da_atomic_file_abandon(out);
    }
    return status;
}

/* Makes the new name last through a crash, where the system can; the contents are safe already. */
static void sync_folder(char *path) {
    char *slash = strrchr(path, '/');
    if (slash != NULL) {
        slash[1] = '\0';
    }
    int descriptor = open(slash != NULL ? path : ".", O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) {
        fsync(descriptor);
        close(descriptor);
    }
}

da_status da_atomic_file_sync(const da_atomic_file *file) {
    return fsync(file->descriptor) == 0 ? DA_OK : report_system(file->path, "cannot be brought to the disk", errno);
}

da_status da_atomic_file_flush(da_atomic_file *file) {
    if (msync(file->mapping.base, file->mapping.bytes, MS_SYNC) != 0 || fsync(file->descriptor) != 0) {
        return report_system(file->path, "cannot be brought to the disk", errno);
    }
    return DA_OK;
}

/* Lets go of everything but the file's name. The pointer goes before its memory: a signal handler may look at it. */
static void release(da_atomic_file *file) {
    char *temporary = file->temporary;
    file->temporary = NULL;
    da_mapping_close(&file->mapping);
    if (file->descriptor >= 0) {
        close(file->descriptor);
    }
    da_release(NULL, temporary);
    da_release(NULL, file->path);
    file->path = NULL;
}

da_status da_atomic_file_commit(da_atomic_file *file) {
    if (file->temporary == NULL) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "writer: holds no file; allowed: one that is open");
    }
    da_status status = da_atomic_file_flush(file);
    if (status == DA_OK && rename(file->temporary, file->path) != 0) {
        status = report_system(file->path, "cannot be put in place", errno);
    }
    if (status == DA_OK) {
        sync_folder(file->path);
    } else if (!file->is_partial) {
        unlink(file->temporary);
    }
    release(file);
    return status;
}

void da_atomic_file_abandon(da_atomic_file *file) {
    if (file->temporary != NULL) {
        unlink(file->temporary);
        release(file);
    }
}

void da_atomic_file_keep(da_atomic_file *file) {
    if (file->temporary != NULL) {
        release(file);
    }
}

/* ---- several processes ------------------------------------------------------------------------------------------- */

static da_status open_joined(const char *temporary, uint64_t bytes, da_atomic_file *file) {
    struct stat status;
    file->descriptor = open(temporary, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (file->descriptor < 0) {
        return report_system(temporary, "the file that another process made cannot be opened", errno);
    }
    if (fstat(file->descriptor, &status) != 0 || (uint64_t)status.st_size != bytes) {
        return da_report(DA_ERROR_IO, "%s: is not the file of %llu bytes that another process made", temporary,
                         (unsigned long long)bytes);
    }
    return map_to_write(temporary, bytes, file);
}

da_status da_atomic_file_join(const char *temporary, uint64_t bytes, da_atomic_file *out) {
    *out = (da_atomic_file){.descriptor = -1};
    out->path = copy_text(temporary);
    out->temporary = copy_text(temporary);
    da_status status =
        out->path != NULL && out->temporary != NULL ? open_joined(temporary, bytes, out) : DA_ERROR_OUT_OF_MEMORY;
    if (status != DA_OK) {
        release(out);
    }
    return status;
}

void da_atomic_file_leave(da_atomic_file *file) {
    if (file->temporary != NULL) {
        release(file);
    }
}
