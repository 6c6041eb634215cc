#define _POSIX_C_SOURCE 200809L

#include "planner/replace_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static da_status report_system(const char *path, const char *what) {
    return da_report(DA_ERROR_IO, "%s: %s: %s", path, what, strerror(errno));
}

static bool write_all(int descriptor, const char *text, size_t length) {
    while (length > 0) {
        ssize_t written = write(descriptor, text, length);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return false;
        }
        text += written;
        length -= (size_t)written;
    }
    return true;
}

/* Opens a file of a name that nobody has. O_EXCL and not mkstemp, so that the umask applies to the usual mode. */
static int open_new(const char *path, char *name, size_t size) {
    enum { ATTEMPTS = 100 };
    int descriptor = -1;
    for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(name, size, "%s.%lx-%lx%x.tmp", path, (unsigned long)getpid(), (unsigned long)now.tv_nsec, attempt);
        descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
        if (descriptor >= 0 || errno != EEXIST) {
            break;
        }
    }
    return descriptor;
}

static da_status write_and_rename(const char *path, const char *temporary, int descriptor, const char *text,
                                  size_t length) {
    bool written = write_all(descriptor, text, length) && fsync(descriptor) == 0;
    int error = errno;
    bool closed = close(descriptor) == 0;
    if (!written || !closed) {
        errno = written ? errno : error;
        da_status status = report_system(path, "could not be written");
        unlink(temporary);
        return status;
    }
    if (rename(temporary, path) != 0) {
        da_status status = report_system(path, "could not be replaced");
        unlink(temporary);
        return status;
    }
    return DA_OK;
}

/* Makes the new name last through a crash, where the system can; the contents are safe already. */
static void sync_folder(const char *path, char *folder, size_t size) {
    const char *slash = strrchr(path, '/');
    snprintf(folder, size, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    int descriptor = open(folder, O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) {
        fsync(descriptor);
        close(descriptor);
    }
}

da_status da_replace_file(const da_allocator *allocator, const char *path, const char *text, size_t length) {
    size_t size = strlen(path) + 64;
    struct stat there;
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode)) {
        return da_report(DA_ERROR_IO, "%s: is no regular file; only one is replaced", path);
    }
    char *name = da_allocate(allocator, size, 1);
    if (!name) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    int descriptor = open_new(path, name, size);
    da_status status = descriptor >= 0 ? write_and_rename(path, name, descriptor, text, length)
                                       : report_system(path, "no file can be created beside it");
    if (status == DA_OK) {
        sync_folder(path, name, size);
    }
    da_release(allocator, name);
    return status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static da_status read_descriptor(const da_allocator *allocator, const char *path, int descriptor, size_t most,
                                 char **text, size_t *length) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) {
        return report_system(path, "cannot be read");
    }
    if (!S_ISREG(status.st_mode)) {
        return da_report(DA_ERROR_IO, "%s: is no regular file", path);
    }
    if (status.st_size < 0 || (uintmax_t)status.st_size > most) {
        return da_report(DA_ERROR_FORMAT, "%s: has %jd bytes; allowed: at most %zu", path, (intmax_t)status.st_size,
                         most);
    }
    size_t size = (size_t)status.st_size;
    *text = da_allocate(allocator, size + 1, 1);
    if (!*text) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    for (*length = 0; *length < size;) {
        ssize_t bytes = read(descriptor, *text + *length, size - *length);
        if (bytes < 0 && errno == EINTR) {
            continue;
        }
        if (bytes <= 0) {
            break; /* shorter than it was: what is there will be found damaged */
        }
        *length += (size_t)bytes;
    }
    (*text)[*length] = '\0';
    return DA_OK;
}

da_status da_read_file(const da_allocator *allocator, const char *path, size_t most, char **text, size_t *length) {
    *text = NULL;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (descriptor < 0) {
        return report_system(path, "cannot be read");
    }
    da_status status = read_descriptor(allocator, path, descriptor, most, text, length);
    close(descriptor);
    return status;
}
