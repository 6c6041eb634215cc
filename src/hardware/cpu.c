/* The processor: its name, the instructions that it and the operating system offer, its caches. */
#define _DEFAULT_SOURCE

#include "hardware/hardware.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__) && defined(__linux__)
#define DA_X86_LINUX 1
#include <sys/syscall.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#define DA_X86 1
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#define DA_ARM64_LINUX 1
#include <sys/auxv.h>
#endif

/* Copies a name without the blanks around it, and with each run of blanks made one. */
static void copy_name(const char *from, char *name, size_t size) {
    size_t length = 0;
    for (; *from != '\0' && *from != '\n' && length + 1 < size; from++) {
        bool blank = *from == ' ' || *from == '\t';
        if (!blank) {
            name[length++] = *from;
        } else if (length > 0 && name[length - 1] != ' ') {
            name[length++] = ' ';
        }
    }
    if (length > 0 && name[length - 1] == ' ') {
        length--;
    }
    name[length] = '\0';
}

static void name_from_cpuinfo(const char *root, char *name, size_t size) {
    char text[4096];
    if (!da_read_text(root, "/proc/cpuinfo", text, sizeof text)) {
        return;
    }
    const char *line = strstr(text, "model name");
    const char *colon = line ? strchr(line, ':') : NULL;
    if (colon) {
        copy_name(colon + 1, name, size);
    }
}

#if defined(DA_X86)

enum { EAX, EBX, ECX, EDX };

/* State that the operating system saves on a context switch, as bits of XCR0. */
enum { STATE_VECTOR_256 = 0x6, STATE_VECTOR_512 = 0xe6, STATE_TILES = 0x60000 };

/* A feature counts if all of `bits` are set in the register and the system saves the state. */
static const struct {
    uint32_t feature;
    unsigned leaf, subleaf;
    int reg;
    uint32_t bits;
    uint32_t state;
} cpuid_features[] = {
    {DA_CPU_AVX2, 7, 0, EBX, 1u << 5, STATE_VECTOR_256},
    {DA_CPU_FMA, 1, 0, ECX, 1u << 12, STATE_VECTOR_256},
    {DA_CPU_F16C, 1, 0, ECX, 1u << 29, STATE_VECTOR_256},
    {DA_CPU_AVX512, 7, 0, EBX, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, STATE_VECTOR_512},
    {DA_CPU_AVX512_BF16, 7, 1, EAX, 1u << 5, STATE_VECTOR_512},
    {DA_CPU_AVX512_FP16, 7, 0, EDX, 1u << 23, STATE_VECTOR_512},
    {DA_CPU_AMX_BF16, 7, 0, EDX, 1u << 22 | 1u << 24, STATE_TILES},
};

static bool query_cpuid(unsigned leaf, unsigned subleaf, uint32_t registers[4]) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(leaf, subleaf, &a, &b, &c, &d)) {
        return false;
    }
    registers[EAX] = a, registers[EBX] = b, registers[ECX] = c, registers[EDX] = d;
    return true;
}

__attribute__((target("xsave"))) static uint64_t read_xcr0(void) {
    return _xgetbv(0);
}

static uint64_t saved_state(void) {
    const uint32_t os_uses_xsave = 1u << 27;
    uint32_t registers[4];
    return query_cpuid(1, 0, registers) && (registers[ECX] & os_uses_xsave) != 0 ? read_xcr0() : 0;
}

static uint32_t detect_features(void) {
    uint64_t state = saved_state();
    uint32_t found = 0;
    for (size_t i = 0; i < sizeof cpuid_features / sizeof cpuid_features[0]; i++) {
        uint32_t registers[4], bits = cpuid_features[i].bits;
        if ((state & cpuid_features[i].state) == cpuid_features[i].state &&
            query_cpuid(cpuid_features[i].leaf, cpuid_features[i].subleaf, registers) &&
            (registers[cpuid_features[i].reg] & bits) == bits) {
            found |= cpuid_features[i].feature;
        }
    }
    return found;
}

bool da_bf16_dot_products_are_slow(void) {
    uint32_t registers[4];
    char vendor[12];
    if (!query_cpuid(0, 0, registers)) {
        return false;
    }
    memcpy(vendor, &registers[EBX], 4);
    memcpy(vendor + 4, &registers[EDX], 4);
    memcpy(vendor + 8, &registers[ECX], 4);
    return memcmp(vendor, "GenuineIntel", sizeof vendor) == 0;
}

static void detect_name(const char *root, char *name, size_t size) {
    char brand[3 * 16 + 1] = "";
    for (unsigned part = 0; part < 3; part++) {
        uint32_t registers[4];
        if (!query_cpuid(0x80000002u + part, 0, registers)) {
            name_from_cpuinfo(root, name, size);
            return;
        }
        memcpy(brand + 16 * part, registers, sizeof registers);
    }
    copy_name(brand, name, size);
}

#else

static uint32_t detect_features(void) {
    uint32_t found = 0;
#if defined(DA_ARM64_LINUX)
    const unsigned long vector_unit = 1ul << 1, scalable_vectors = 1ul << 22;
    unsigned long capabilities = getauxval(AT_HWCAP);
    found |= (capabilities & vector_unit) != 0 ? DA_CPU_NEON : 0;
    found |= (capabilities & scalable_vectors) != 0 ? DA_CPU_SVE : 0;
#endif
    return found;
}

bool da_bf16_dot_products_are_slow(void) {
    return false;
}

static void detect_name(const char *root, char *name, size_t size) {
    name_from_cpuinfo(root, name, size);
}

#endif

void da_detect_cpu(const char *root, da_hardware *hardware) {
    hardware->cpu_features = detect_features();
    detect_name(root, hardware->cpu_name, sizeof hardware->cpu_name);
}

bool da_permit_tiles(void) {
#if defined(DA_X86_LINUX)
    /* From asm/prctl.h of Linux 5.16, which older systems' headers lack. */
    const long arch_req_xcomp_perm = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) == 0;
#else
    return false;
#endif
}

/* "48K", "2M", "1024": bytes; 0 for anything else. */
static uint64_t parse_size(const char *text) {
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return 0;
    }
    uint64_t number = strtoull(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    return number <= UINT64_MAX >> shift ? number << shift : 0;
}

/* One of /sys's descriptions of a cache; false if there is none of that index. */
static bool read_cache(const char *root, int index, uint64_t *levels[3]) {
    char path[96], level[16], type[32], size[32];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", index);
    if (!da_read_text(root, path, level, sizeof level)) {
        return false;
    }
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", index);
    bool has_type = da_read_text(root, path, type, sizeof type);
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
    bool has_size = da_read_text(root, path, size, sizeof size);
    if (has_type && has_size && strncmp(type, "Instruction", 11) != 0 && level[0] >= '1' && level[0] <= '3') {
        *levels[level[0] - '1'] = parse_size(size);
    }
    return true;
}

void da_detect_caches(const char *root, da_hardware *hardware) {
    const int most_caches = 16;
    uint64_t *levels[3] = {&hardware->l1_cache, &hardware->l2_cache, &hardware->l3_cache};
    int index = 0;
    while (index < most_caches && read_cache(root, index, levels)) {
        index++;
    }
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    const int names[3] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
    for (int i = 0; i < 3; i++) {
        long bytes = *levels[i] == 0 ? sysconf(names[i]) : 0;
        if (bytes > 0) {
            *levels[i] = (uint64_t)bytes;
        }
    }
#endif
}
