/* Detection of the processor and of main memory: on this machine, and on made-up trees of /proc and /sys. */
#define _XOPEN_SOURCE 700

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <ftw.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cmocka.h>

#include "hardware/hardware.h"

static char tree[] = "made_up_tree_XXXXXX";

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk) {
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static int make_tree(void **state) {
    (void)state;
    strcpy(tree + strlen(tree) - 6, "XXXXXX");
    return mkdtemp(tree) ? 0 : -1;
}

static int remove_tree(void **state) {
    (void)state;
    return nftw(tree, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Writes tree/path, with the folders that it needs. */
static void write_file(const char *path, const char *text) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", tree, path);
    for (char *slash = strchr(full + strlen(tree) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0777);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    assert_int_not_equal(fputs(text, file), EOF);
    assert_int_equal(fclose(file), 0);
}

static void test_init(void **state) {
    (void)state;
    da_hardware hardware, zero;
    memset(&hardware, 0xa5, sizeof hardware);
    memset(&zero, 0, sizeof zero);
    da_hardware_init(&hardware);
    assert_int_equal(hardware.size, sizeof(da_hardware));
    assert_int_equal(hardware.cores, 1);
    hardware.size = 0;
    hardware.cores = 0;
    assert_memory_equal(&hardware, &zero, sizeof zero);
    da_hardware_init(NULL);
}

static void test_null(void **state) {
    (void)state;
    assert_int_equal(da_hardware_detect(NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(da_last_error_message(), "hardware is NULL"));
}

static void test_this_machine(void **state) {
    (void)state;
    da_hardware hardware;
    struct utsname machine;
    memset(&hardware, 0xa5, sizeof hardware);
    assert_int_equal(da_hardware_detect(&hardware), DA_OK);
    assert_int_equal(hardware.size, sizeof hardware);
    assert_int_equal(uname(&machine), 0);
    assert_string_equal(hardware.architecture, machine.machine);
    assert_in_range(hardware.cores, 1, sysconf(_SC_NPROCESSORS_CONF));
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_in_range(hardware.memory, 1, physical);
    assert_in_range(hardware.gpu_count, 0, DA_MAX_GPUS);
    assert_int_not_equal(hardware.gpu_note[0], '\0');
    assert_non_null(memchr(hardware.cpu_name, '\0', sizeof hardware.cpu_name));
}

/* The compiler's own detection, made apart from ours, sees the same. */
static void test_features_as_the_compiler_sees_them(void **state) {
    (void)state;
    da_hardware hardware;
    assert_int_equal(da_hardware_detect(&hardware), DA_OK);
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    assert_int_equal((hardware.cpu_features & DA_CPU_AVX2) != 0, __builtin_cpu_supports("avx2") != 0);
    assert_int_equal((hardware.cpu_features & DA_CPU_FMA) != 0, __builtin_cpu_supports("fma") != 0);
    assert_int_equal((hardware.cpu_features & DA_CPU_AVX512) != 0, avx512);
    assert_int_equal(hardware.cpu_features & (DA_CPU_NEON | DA_CPU_SVE), 0);
    if (!avx512) {
        assert_int_equal(hardware.cpu_features & (DA_CPU_AVX512_BF16 | DA_CPU_AVX512_FP16), 0);
    }
    assert_int_not_equal(hardware.cpu_name[0], '\0');
#elif defined(__aarch64__)
    assert_int_equal(hardware.cpu_features & ~(uint32_t)DA_CPU_SVE, DA_CPU_NEON);
#else
    assert_int_equal(hardware.cpu_features, 0);
#endif
}

#if defined(__x86_64__)
/* Is `flag` a word of the flags line of /proc/cpuinfo? */
static bool has_flag(const char *flags, const char *flag) {
    char word[64];
    snprintf(word, sizeof word, " %s ", flag);
    return strstr(flags, word) != NULL;
}
#endif

/* The operating system's list of the processor's features sees the same, for those that compilers differ about. */
static void test_features_as_the_system_sees_them(void **state) {
    (void)state;
#if defined(__x86_64__)
    static const struct {
        const char *flag;
        uint32_t feature;
    } rows[] = {
        {"avx2", DA_CPU_AVX2},
        {"fma", DA_CPU_FMA},
        {"f16c", DA_CPU_F16C},
        {"avx512_bf16", DA_CPU_AVX512_BF16},
        {"avx512_fp16", DA_CPU_AVX512_FP16},
        {"amx_bf16", DA_CPU_AMX_BF16},
    };
    char text[16384];
    da_hardware hardware;
    da_hardware_init(&hardware);
    da_detect_cpu("", &hardware);
    char *flags = da_read_text("", "/proc/cpuinfo", text, sizeof text) ? strstr(text, "\nflags") : NULL;
    char *end = flags ? strchr(flags + 1, '\n') : NULL;
    if (!end) {
        skip();
    }
    strcpy(end, " ");
    /* Where the two differ about the plain features, the processor is emulated (by valgrind, say) and the list is
     * not. */
    if (has_flag(flags, "avx2") != (__builtin_cpu_supports("avx2") != 0) ||
        has_flag(flags, "avx512f") != (__builtin_cpu_supports("avx512f") != 0)) {
        skip();
    }
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        if (((hardware.cpu_features & rows[k].feature) != 0) != has_flag(flags, rows[k].flag)) {
            fail_msg("%s: features are 0x%x", rows[k].flag, (unsigned)hardware.cpu_features);
        }
    }
#else
    skip();
#endif
}

static void test_detection_is_quick(void **state) {
    (void)state;
    const double limit = 0.005;
    double quickest = 1;
    for (int k = 0; k < 20; k++) {
        da_hardware hardware;
        clock_t start = clock();
        assert_int_equal(da_hardware_detect(&hardware), DA_OK);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        quickest = seconds < quickest ? seconds : quickest;
        if (!strstr(hardware.gpu_note, "no NVIDIA driver library")) {
            skip();
        }
    }
    assert_true(quickest < limit);
}

typedef struct limit_case {
    const char *name;
    const char *files[5][2]; /* path, text */
    uint64_t limit;
} limit_case;

#define V1 "/sys/fs/cgroup/memory"
#define V2 "/sys/fs/cgroup"

static const limit_case limit_cases[] = {
    {"no cgroup", {{NULL}}, UINT64_MAX},
    {"version 2, no limit", {{"/proc/self/cgroup", "0::/a\n"}, {V2 "/a/memory.max", "max\n"}}, UINT64_MAX},
    {"version 2, limit", {{"/proc/self/cgroup", "0::/a/b\n"}, {V2 "/a/b/memory.max", "1000000\n"}}, 1000000},
    {"version 2, lower limit above",
     {{"/proc/self/cgroup", "0::/a/b\n"}, {V2 "/a/b/memory.max", "1000000\n"}, {V2 "/a/memory.max", "999\n"}},
     999},
    {"version 2, higher limit above",
     {{"/proc/self/cgroup", "0::/a/b\n"}, {V2 "/a/b/memory.max", "1000\n"}, {V2 "/a/memory.max", "2000\n"}},
     1000},
    {"version 2, in the root group", {{"/proc/self/cgroup", "0::/\n"}, {V2 "/memory.max", "4096\n"}}, 4096},
    {"version 2, in a container that hides its group",
     {{"/proc/self/cgroup", "0::/not/here\n"}, {V2 "/memory.max", "8192\n"}},
     8192},
    {"version 2, a group of another name",
     {{"/proc/self/cgroup", "0::/a\n"}, {V2 "/ab/memory.max", "1\n"}},
     UINT64_MAX},
    {"version 1, limit",
     {{"/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n"}, {V1 "/x/memory.limit_in_bytes", "123456\n"}},
     123456},
    {"version 1, with other controllers",
     {{"/proc/self/cgroup", "4:cpuset,memory,hugetlb:/x\n"}, {V1 "/memory.limit_in_bytes", "77777\n"}},
     77777},
    {"version 1, a controller with a like name",
     {{"/proc/self/cgroup", "4:memory2:/x\n3:xmemory:/x\n"}, {V1 "/x/memory.limit_in_bytes", "1\n"}},
     UINT64_MAX},
    {"both versions, memory in version 1",
     {{"/proc/self/cgroup", "4:memory:/x\n0::/x\n"}, {V1 "/x/memory.limit_in_bytes", "55555\n"}},
     55555},
    {"nonsense",
     {{"/proc/self/cgroup", "\n::\nfour\n0:\n0::/a\n"},
      {V2 "/a/memory.max", "-1\n"},
      {V2 "/memory.max", "12 apples\n"}},
     UINT64_MAX},
    {"too large a number",
     {{"/proc/self/cgroup", "0::/a\n"}, {V2 "/a/memory.max", "99999999999999999999999\n"}},
     UINT64_MAX},
};

static void test_memory_limit(void **state) {
    for (size_t k = 0; k < sizeof limit_cases / sizeof *limit_cases; k++) {
        const limit_case *row = &limit_cases[k];
        assert_int_equal(make_tree(state), 0);
        for (int f = 0; f < 5 && row->files[f][0]; f++) {
            write_file(row->files[f][0], row->files[f][1]);
        }
        uint64_t limit = da_cgroup_memory_limit(tree);
        assert_int_equal(remove_tree(state), 0);
        if (limit != row->limit) {
            fail_msg("%s: %llu, not %llu", row->name, (unsigned long long)limit, (unsigned long long)row->limit);
        }
    }
}

static void write_cache(int index, const char *level, const char *type, const char *size) {
    const char *names[3] = {"level", "type", "size"}, *texts[3] = {level, type, size};
    for (int k = 0; k < 3; k++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, names[k]);
        write_file(path, texts[k]);
    }
}

static void test_caches(void **state) {
    (void)state;
    da_hardware hardware;
    da_hardware_init(&hardware);
    write_cache(0, "1\n", "Data\n", "48K\n");
    write_cache(1, "1\n", "Instruction\n", "32K\n");
    write_cache(2, "2\n", "Unified\n", "2M\n");
    write_cache(3, "3\n", "Unified\n", "33554432\n");
    write_cache(4, "4\n", "Unified\n", "1G\n");
    da_detect_caches(tree, &hardware);
    assert_int_equal(hardware.l1_cache, 48 * 1024);
    assert_int_equal(hardware.l2_cache, 2 * 1024 * 1024);
    assert_int_equal(hardware.l3_cache, 33554432);
}

static void test_cpu_name_from_the_system(void **state) {
    (void)state;
#if defined(__x86_64__)
    skip(); /* the processor itself says its name */
#else
    da_hardware hardware;
    da_hardware_init(&hardware);
    write_file("/proc/cpuinfo", "processor : 0\nmodel name\t:   Fast   CPU  \nflags : x\n");
    da_detect_cpu(tree, &hardware);
    assert_string_equal(hardware.cpu_name, "Fast CPU");
#endif
}

static void test_reading_a_text(void **state) {
    (void)state;
    char text[8], long_path[8192];
    write_file("/long", "0123456789");
    assert_true(da_read_text(tree, "/long", text, sizeof text));
    assert_string_equal(text, "0123456");
    write_file("/empty", "");
    assert_true(da_read_text(tree, "/empty", text, sizeof text));
    assert_string_equal(text, "");
    assert_false(da_read_text(tree, "/missing", text, sizeof text));
    memset(long_path, 'a', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    assert_false(da_read_text(tree, long_path, text, sizeof text));
    assert_false(da_read_text(tree, "/", text, sizeof text));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_null),
        cmocka_unit_test(test_this_machine),
        cmocka_unit_test(test_features_as_the_compiler_sees_them),
        cmocka_unit_test(test_features_as_the_system_sees_them),
        cmocka_unit_test(test_detection_is_quick),
        cmocka_unit_test(test_memory_limit),
        cmocka_unit_test_setup_teardown(test_caches, make_tree, remove_tree),
        cmocka_unit_test_setup_teardown(test_cpu_name_from_the_system, make_tree, remove_tree),
        cmocka_unit_test_setup_teardown(test_reading_a_text, make_tree, remove_tree),
    };
    return cmocka_run_group_tests_name("hardware", tests, NULL, NULL);
}
