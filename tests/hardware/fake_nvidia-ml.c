/* A stand-in for NVIDIA's management library. FAKE_* definitions say what state it is in. */
#include <stdio.h>

#ifndef FAKE_INIT_RESULT
#define FAKE_INIT_RESULT 0
#endif
#ifndef FAKE_UNREACHABLE
#define FAKE_UNREACHABLE -1
#endif

typedef struct memory_info {
    unsigned long long total, free, used;
} memory_info;

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetName(void *device, char *name, unsigned size);
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor);
int nvmlDeviceGetMemoryInfo(void *device, memory_info *memory);

enum { UNKNOWN_ERROR = 999 };

static int initialised;
static int devices[32];

int nvmlInit_v2(void) {
    initialised += FAKE_INIT_RESULT == 0;
    return FAKE_INIT_RESULT;
}

int nvmlShutdown(void) {
    initialised--;
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
#if defined(FAKE_COUNT_FAILS)
    *count = 77;
    return UNKNOWN_ERROR;
#else
    *count = initialised ? FAKE_GPUS : 0;
    return 0;
#endif
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if ((int)index == FAKE_UNREACHABLE) {
        return UNKNOWN_ERROR;
    }
    devices[index] = (int)index;
    *device = &devices[index];
    return 0;
}

int nvmlDeviceGetName(void *device, char *name, unsigned size) {
#if defined(FAKE_NOTHING_KNOWN)
    snprintf(name, size, "rubbish");
    return UNKNOWN_ERROR;
#else
    snprintf(name, size, "Fake H%d00", *(int *)device + 1);
    return 0;
#endif
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    *major = 9;
    *minor = *(int *)device;
#if defined(FAKE_NOTHING_KNOWN)
    return UNKNOWN_ERROR;
#else
    return 0;
#endif
}

#if !defined(FAKE_LACKS_SYMBOL)
int nvmlDeviceGetMemoryInfo(void *device, memory_info *memory) {
    memory->total = 80ull << 30;
    memory->free = 79ull << 30;
    memory->used = 1ull << 30;
#if defined(FAKE_NOTHING_KNOWN)
    return UNKNOWN_ERROR;
#else
    return 0;
#endif
}
#endif
