/* The machine as a whole: main memory, cores, architecture. */
#define _POSIX_C_SOURCE 200809L

#include "hardware/hardware.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/parallel.h"

#define PATH_SIZE 4608

/* The number in a limit file; UINT64_MAX if there is no such file or it says "max". */
static uint64_t read_limit(const char *root, const char *folder, const char *file) {
    char path[PATH_SIZE], text[64], *end;
    int length = snprintf(path, sizeof path, "%s/%s", folder, file);
    if (length < 0 || (size_t)length >= sizeof path || !da_read_text(root, path, text, sizeof text)) {
        return UINT64_MAX;
    }
    if (text[0] < '0' || text[0] > '9') {
        return UINT64_MAX;
    }
    errno = 0;
    uint64_t limit = strtoull(text, &end, 10);
    return errno == 0 && (*end == '\n' || *end == '\0') ? limit : UINT64_MAX;
}

/* A limit of a group holds for all groups below it, so every folder from the process's group up to the mount counts.
 * In a container the outer part of the group's path may not exist: those folders are passed by. */
static uint64_t lowest_limit(const char *root, const char *mount, const char *group, const char *file) {
    char folder[PATH_SIZE];
    size_t mount_length = strlen(mount);
    int length = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (length < 0 || (size_t)length >= sizeof folder) {
        return read_limit(root, mount, file);
    }
    uint64_t lowest = UINT64_MAX;
    for (;;) {
        uint64_t limit = read_limit(root, folder, file);
        lowest = limit < lowest ? limit : lowest;
        char *last = strrchr(folder, '/');
        if ((size_t)(last - folder) < mount_length) {
            return lowest;
        }
        *last = '\0';
    }
}

static bool list_contains(const char *list, const char *item) {
    size_t length = strlen(item);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, item, length) == 0 && (at[length] == ',' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

uint64_t da_cgroup_memory_limit(const char *root) {
    char text[8192], *rest = NULL;
    uint64_t lowest = UINT64_MAX;
    if (!da_read_text(root, "/proc/self/cgroup", text, sizeof text)) {
        return lowest;
    }
    /* A line is "number:controllers:path"; version 2 has number 0 and no controllers. */
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) {
            continue;
        }
        *controllers++ = '\0';
        *group++ = '\0';
        uint64_t limit = UINT64_MAX;
        if (list_contains(controllers, "memory")) {
            limit = lowest_limit(root, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
        } else if (strcmp(line, "0") == 0 && controllers[0] == '\0') {
            limit = lowest_limit(root, "/sys/fs/cgroup", group, "memory.max");
        }
        lowest = limit < lowest ? limit : lowest;
    }
    return lowest;
}

static uint64_t physical_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_size > 0 ? (uint64_t)pages * (uint64_t)page_size : 0;
}

void da_hardware_init(da_hardware *hardware) {
    if (!hardware) {
        return;
    }
    memset(hardware, 0, sizeof *hardware);
    hardware->size = sizeof *hardware;
    hardware->cores = 1;
}

void da_detect_machine(da_hardware *hardware) {
    struct utsname machine;
    if (uname(&machine) == 0) {
        snprintf(hardware->architecture, sizeof hardware->architecture, "%.*s", (int)sizeof hardware->architecture - 1,
                 machine.machine);
    }
    hardware->cores = da_usable_cores();
    da_detect_cpu("", hardware);
}

da_status da_hardware_detect(da_hardware *hardware) {
    if (!hardware) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "hardware is NULL; allowed: a da_hardware to fill");
    }
    da_hardware_init(hardware);
    da_detect_machine(hardware);
    uint64_t physical = physical_memory(), limit = da_cgroup_memory_limit("");
    hardware->memory = limit < physical ? limit : physical;
    da_detect_caches("", hardware);
    da_detect_gpus(hardware);
    return DA_OK;
}
