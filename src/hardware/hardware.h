/* What fills a da_hardware, one file for each kind of part. Everything here is best effort: what cannot be found is
 * left as it is. `root` is put before every path of /proc and /sys, "" for this machine. */
#ifndef DA_HARDWARE_HARDWARE_H
#define DA_HARDWARE_HARDWARE_H

#include "dilated_attention.h"

/* cpu_name and cpu_features. */
void da_detect_cpu(const char *root, da_hardware *hardware);

/* Asks the operating system to let this process, all its threads, use AMX tiles; true if it does. Cheap to repeat. */
bool da_permit_tiles(void);

/* Whether a dot product of bf16 pairs takes twice the time of a multiply-add in f32, as on Intel's processors, so that
 * kernels in f32 do as much without rounding weights. */
bool da_bf16_dot_products_are_slow(void);

/* architecture and cores, and what da_detect_cpu finds: all that plans depend on. */
void da_detect_machine(da_hardware *hardware);

/* l1_cache (data), l2_cache, l3_cache. */
void da_detect_caches(const char *root, da_hardware *hardware);

/* gpu_count, gpus and gpu_note. */
void da_detect_gpus(da_hardware *hardware);

/* The lowest memory limit of the process's cgroup and those above it, version 1 or 2; UINT64_MAX: none. */
uint64_t da_cgroup_memory_limit(const char *root);

/* The beginning of a text file, at most size - 1 bytes, zero-terminated; false if it cannot be read. */
bool da_read_text(const char *root, const char *path, char *text, size_t size);

#endif
