/* A stand-in for the CUDA driver. FAKE_* definitions say what state it is in. */
#include <stddef.h>
#include <stdio.h>

#ifndef FAKE_INIT_RESULT
#define FAKE_INIT_RESULT 0
#endif

int cuInit(unsigned flags);
int cuDeviceGetCount(int *count);
int cuDeviceGet(int *device, int index);
int cuDeviceGetName(char *name, int size, int device);
int cuDeviceGetAttribute(int *value, int attribute, int device);
int cuDeviceTotalMem_v2(size_t *bytes, int device);

/* Handles are not indices, so that mixing the two up shows. */
enum { HANDLE_OF_FIRST = 40, INVALID_VALUE = 1 };

static int is_handle(int device) {
    return device >= HANDLE_OF_FIRST && device < HANDLE_OF_FIRST + FAKE_GPUS;
}

int cuInit(unsigned flags) {
    return flags == 0 ? FAKE_INIT_RESULT : INVALID_VALUE;
}

int cuDeviceGetCount(int *count) {
    *count = FAKE_GPUS;
    return 0;
}

int cuDeviceGet(int *device, int index) {
    *device = HANDLE_OF_FIRST + index;
    return 0;
}

int cuDeviceGetName(char *name, int size, int device) {
    if (!is_handle(device)) {
        return INVALID_VALUE;
    }
    snprintf(name, (size_t)size, "Fake A%d00", device - HANDLE_OF_FIRST + 1);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (!is_handle(device) || (attribute != 75 && attribute != 76)) {
        return INVALID_VALUE;
    }
    *value = attribute == 75 ? 8 : 6;
    return 0;
}

#if !defined(FAKE_LACKS_SYMBOL)
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = (size_t)1 << 30;
    return is_handle(device) ? 0 : INVALID_VALUE;
}
#endif
