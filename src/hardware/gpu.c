/* NVIDIA GPUs, through whichever of the driver's libraries can be opened: the management library, which answers at
 * once, else the CUDA driver, which starts the GPUs up. Neither is linked: the few functions needed are declared
 * here, as the driver's binary interface has them. All GPUs that the driver shows count, whatever
 * CUDA_VISIBLE_DEVICES says. */
#define _POSIX_C_SOURCE 200809L

#include "hardware/hardware.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define NVML_NAME "libnvidia-ml.so.1"
#define CUDA_NAME "libcuda.so.1"

enum { NOTE_SIZE = sizeof((da_hardware *)0)->gpu_note };

/* A symbol to look up, and where its address belongs. */
typedef struct symbol {
    const char *name;
    void *function;
} symbol;

/* False, with a note, if one is missing. */
static bool look_up(void *library, const char *library_name, const symbol *symbols, size_t count, char *note) {
    for (size_t i = 0; i < count; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (!address) {
            snprintf(note, NOTE_SIZE, "%s lacks %s", library_name, symbols[i].name);
            return false;
        }
        /* ISO C has no conversion from an object pointer to a function pointer; POSIX promises equal
         * representations. */
        memcpy(symbols[i].function, &address, sizeof address);
    }
    return true;
}

static int clamp_count(unsigned count) {
    return count < DA_MAX_GPUS ? (int)count : DA_MAX_GPUS;
}

static void note_found(da_hardware *hardware, const char *library_name, unsigned count) {
    if (hardware->gpu_count == 0) {
        snprintf(hardware->gpu_note, NOTE_SIZE, "%s shows no GPU", library_name);
    } else if (count > DA_MAX_GPUS) {
        snprintf(hardware->gpu_note, NOTE_SIZE, "%u GPUs found through %s, of which %d are listed", count, library_name,
                 hardware->gpu_count);
    } else {
        snprintf(hardware->gpu_note, NOTE_SIZE, "found through %s", library_name);
    }
}

/* The management library. */

typedef struct nvml_memory {
    unsigned long long total, free, used;
} nvml_memory;

typedef struct nvml_functions {
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *count);
    int (*handle)(unsigned index, void **device);
    int (*name)(void *device, char *name, unsigned size);
    int (*capability)(void *device, int *major, int *minor);
    int (*memory)(void *device, nvml_memory *memory);
} nvml_functions;

static void list_nvml_gpus(const nvml_functions *nvml, da_hardware *hardware) {
    unsigned count = 0;
    if (nvml->count(&count) != 0) {
        count = 0;
    }
    for (int i = 0; i < clamp_count(count); i++) {
        void *device = NULL;
        if (nvml->handle((unsigned)i, &device) != 0) {
            continue;
        }
        da_gpu gpu = {.name = ""};
        nvml_memory memory = {0, 0, 0};
        if (nvml->name(device, gpu.name, sizeof gpu.name) != 0) {
            gpu.name[0] = '\0';
        }
        if (nvml->capability(device, &gpu.compute_major, &gpu.compute_minor) != 0) {
            gpu.compute_major = gpu.compute_minor = 0;
        }
        gpu.memory = nvml->memory(device, &memory) == 0 ? memory.total : 0;
        hardware->gpus[hardware->gpu_count++] = gpu;
    }
    note_found(hardware, NVML_NAME, count);
}

/* False, with a note, if the library cannot be used. */
static bool detect_with_nvml(void *library, da_hardware *hardware) {
    nvml_functions nvml;
    const symbol symbols[] = {
        {"nvmlInit_v2", &nvml.init},
        {"nvmlShutdown", &nvml.shutdown},
        {"nvmlDeviceGetCount_v2", &nvml.count},
        {"nvmlDeviceGetHandleByIndex_v2", &nvml.handle},
        {"nvmlDeviceGetName", &nvml.name},
        {"nvmlDeviceGetCudaComputeCapability", &nvml.capability},
        {"nvmlDeviceGetMemoryInfo", &nvml.memory},
    };
    if (!look_up(library, NVML_NAME, symbols, sizeof symbols / sizeof symbols[0], hardware->gpu_note)) {
        return false;
    }
    int error = nvml.init();
    if (error != 0) {
        snprintf(hardware->gpu_note, NOTE_SIZE, "%s: nvmlInit_v2 returned error %d", NVML_NAME, error);
        return false;
    }
    list_nvml_gpus(&nvml, hardware);
    nvml.shutdown();
    return true;
}

/* The CUDA driver. */

enum { COMPUTE_CAPABILITY_MAJOR = 75, COMPUTE_CAPABILITY_MINOR = 76 };

typedef struct cuda_functions {
    int (*init)(unsigned flags);
    int (*count)(int *count);
    int (*handle)(int *device, int index);
    int (*name)(char *name, int size, int device);
    int (*attribute)(int *value, int attribute, int device);
    int (*memory)(size_t *bytes, int device);
} cuda_functions;

static void list_cuda_gpus(const cuda_functions *cuda, da_hardware *hardware) {
    int count = 0;
    if (cuda->count(&count) != 0 || count < 0) {
        count = 0;
    }
    for (int i = 0; i < clamp_count((unsigned)count); i++) {
        int device = 0;
        if (cuda->handle(&device, i) != 0) {
            continue;
        }
        da_gpu gpu = {.name = ""};
        size_t memory = 0;
        if (cuda->name(gpu.name, (int)sizeof gpu.name, device) != 0) {
            gpu.name[0] = '\0';
        }
        if (cuda->attribute(&gpu.compute_major, COMPUTE_CAPABILITY_MAJOR, device) != 0 ||
            cuda->attribute(&gpu.compute_minor, COMPUTE_CAPABILITY_MINOR, device) != 0) {
            gpu.compute_major = gpu.compute_minor = 0;
        }
        gpu.memory = cuda->memory(&memory, device) == 0 ? memory : 0;
        hardware->gpus[hardware->gpu_count++] = gpu;
    }
    note_found(hardware, CUDA_NAME, (unsigned)count);
}

static bool detect_with_cuda(void *library, da_hardware *hardware) {
    cuda_functions cuda;
    const symbol symbols[] = {
        {"cuInit", &cuda.init},
        {"cuDeviceGetCount", &cuda.count},
        {"cuDeviceGet", &cuda.handle},
        {"cuDeviceGetName", &cuda.name},
        {"cuDeviceGetAttribute", &cuda.attribute},
        {"cuDeviceTotalMem_v2", &cuda.memory},
    };
    if (!look_up(library, CUDA_NAME, symbols, sizeof symbols / sizeof symbols[0], hardware->gpu_note)) {
        return false;
    }
    int error = cuda.init(0);
    if (error != 0) {
        snprintf(hardware->gpu_note, NOTE_SIZE, "%s: cuInit returned error %d", CUDA_NAME, error);
        return false;
    }
    list_cuda_gpus(&cuda, hardware);
    return true;
}

/* Opens one library and asks it; false if there is none or it cannot be used. */
static bool try_library(const char *name, bool (*detect)(void *library, da_hardware *hardware), da_hardware *hardware) {
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        return false;
    }
    bool usable = detect(library, hardware);
    dlclose(library);
    return usable;
}

void da_detect_gpus(da_hardware *hardware) {
    snprintf(hardware->gpu_note, NOTE_SIZE, "no NVIDIA driver library found");
    if (!try_library(NVML_NAME, detect_with_nvml, hardware)) {
        try_library(CUDA_NAME, detect_with_cuda, hardware);
    }
}
