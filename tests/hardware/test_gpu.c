/* What da_hardware_detect() makes of the driver libraries that it finds. Run with the name of a state; the folder of
 * that state's stand-in libraries is on LD_LIBRARY_PATH. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dilated_attention.h"

typedef struct expectation {
    const char *state;
    int gpu_count;
    const char *first_name, *last_name;
    int compute_major, last_compute_minor;
    uint64_t memory;
    const char *note;
} expectation;

static const uint64_t GIB = (uint64_t)1 << 30;

static const expectation expectations[] = {
    {"two", 2, "Fake H100", "Fake H200", 9, 1, 80, "found through libnvidia-ml.so.1"},
    {"no_gpu", 0, "", "", 0, 0, 0, "libnvidia-ml.so.1 shows no GPU"},
    {"many", 16, "Fake H100", "Fake H1600", 9, 15, 80,
     "20 GPUs found through libnvidia-ml.so.1, of which 16 are listed"},
    {"one_unreachable", 2, "Fake H100", "Fake H300", 9, 2, 80, "found through libnvidia-ml.so.1"},
    {"nothing_known", 1, "", "", 0, 0, 0, "found through libnvidia-ml.so.1"},
    {"count_fails", 0, "", "", 0, 0, 0, "libnvidia-ml.so.1 shows no GPU"},
    {"management_fails", 1, "Fake A100", "Fake A100", 8, 6, 1, "found through libcuda.so.1"},
    {"management_lacks_symbol", 2, "Fake A100", "Fake A200", 8, 6, 1, "found through libcuda.so.1"},
    {"both_fail", 0, "", "", 0, 0, 0, "libcuda.so.1: cuInit returned error 100"},
    {"both_lack_symbols", 0, "", "", 0, 0, 0, "libcuda.so.1 lacks cuDeviceTotalMem_v2"},
};

static void test_detection(void **state) {
    const expectation *expected = *state;
    da_hardware hardware;
    for (int repetition = 0; repetition < 2; repetition++) {
        memset(&hardware, 0xa5, sizeof hardware);
        assert_int_equal(da_hardware_detect(&hardware), DA_OK);
        assert_string_equal(hardware.gpu_note, expected->note);
        assert_int_equal(hardware.gpu_count, expected->gpu_count);
        for (int k = 0; k < hardware.gpu_count; k++) {
            assert_int_equal(hardware.gpus[k].compute_major, expected->compute_major);
            assert_int_equal(hardware.gpus[k].memory, expected->memory * GIB);
        }
        if (hardware.gpu_count > 0) {
            const da_gpu *last = &hardware.gpus[hardware.gpu_count - 1];
            assert_string_equal(hardware.gpus[0].name, expected->first_name);
            assert_string_equal(last->name, expected->last_name);
            assert_int_equal(last->compute_minor, expected->last_compute_minor);
        }
        assert_false(hardware.flash_attention_3 || hardware.flash_attention_2 || hardware.xformers);
    }
}

int main(int argc, char **argv) {
    for (size_t k = 0; argc == 2 && k < sizeof expectations / sizeof *expectations; k++) {
        if (strcmp(argv[1], expectations[k].state) == 0) {
            const struct CMUnitTest tests[] = {
                {argv[1], test_detection, NULL, NULL, (void *)(uintptr_t)&expectations[k]},
            };
            return cmocka_run_group_tests_name("gpu", tests, NULL, NULL);
        }
    }
    fprintf(stderr, "usage: test_gpu STATE, with one of the states that CMakeLists.txt builds\n");
    return 2;
}
