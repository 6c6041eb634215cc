/* Files of profiles: written, read, and not to be trusted: damaged in every way, or out of range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention/block_sparse/profile.h"
#include "core/hash.h"
#include "planner/plan_fixtures.h"

enum { HEADS = 3, LAST_LINE = 26, MAX_TEXT = 4096 };

static char *good; /* a profile of HEADS heads */
static size_t good_length;

static const da_sparse_rule rules[HEADS] = {
    {DA_SPARSE_CONTENT, 0.125}, {DA_SPARSE_LOCAL_WINDOW, 0.1}, {DA_SPARSE_HYBRID, 1}};

static da_sparse_profile *make_profile(const da_allocator *allocator) {
    da_sparse_profile *profile;
    assert_int_equal(da_sparse_profile_allocate(allocator, HEADS, &profile), DA_OK);
    profile->block_size = 64;
    profile->quality_target = 0.95;
    memcpy(profile->rules, rules, sizeof rules);
    return profile;
}

static int make_good(void **state) {
    const char *path = temporary_path("good");
    da_sparse_profile *profile = make_profile(NULL);
    (void)state;
    assert_int_equal(da_sparse_profile_save(profile, path), DA_OK);
    da_sparse_profile_free(profile);
    good = read_text(path, &good_length);
    return 0;
}

static int free_good(void **state) {
    free(good);
    return remove_folder(state);
}

/* Reads a text; a refused one leaves nothing. */
static da_status load(const char *text, size_t length) {
    const char *path = temporary_path("tried");
    da_sparse_profile *profile = (da_sparse_profile *)(void *)good;
    write_text(path, text, length);
    da_status status = da_sparse_profile_load(NULL, path, &profile);
    assert_true((status == DA_OK) == (profile != NULL));
    da_sparse_profile_free(profile);
    return status;
}

static void test_round_trip(void **state) {
    static const char begin[] =
        "dilated-attention sparse profile 1\nblock_size 64\nquality_target 0.94999999999999996\n"
        "heads 3\nhead 0 content 0.125\nhead 1 local_window 0.10000000000000001\n"
        "head 2 hybrid 1\nchecksum ";
    da_sparse_profile *profile;
    da_sparse_profile_info info;
    (void)state;
    assert_memory_equal(good, begin, strlen(begin));
    assert_int_equal(da_sparse_profile_load(NULL, temporary_path("good"), &profile), DA_OK);
    da_sparse_profile_info_init(&info);
    assert_int_equal(da_sparse_profile_get_info(profile, &info), DA_OK);
    assert_true(info.heads == HEADS && info.block_size == 64 && info.quality_target == 0.95);
    for (int64_t head = 0; head < HEADS; head++) {
        da_sparse_pattern pattern;
        double ratio;
        assert_int_equal(da_sparse_profile_head(profile, head, &pattern, &ratio), DA_OK);
        assert_true(pattern == rules[head].pattern && ratio == rules[head].ratio);
    }
    da_sparse_pattern pattern;
    double ratio;
    assert_int_equal(da_sparse_profile_head(profile, HEADS, &pattern, &ratio), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("head is 3; allowed: 0 to heads - 1, which is 2");
    assert_int_equal(da_sparse_profile_head(profile, 0, NULL, &ratio), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_sparse_profile_head(profile, 0, &pattern, NULL), DA_ERROR_INVALID_ARGUMENT);
    da_sparse_profile_free(profile);
}

static void test_damaged(void **state) {
    char *text = malloc(good_length + 1);
    (void)state;
    assert_non_null(text);
    for (size_t k = 0; k < good_length; k++) {
        assert_int_equal(load(good, k), DA_ERROR_FORMAT);
        for (int bit = 0; bit < 8; bit++) {
            memcpy(text, good, good_length);
            text[k] = (char)(text[k] ^ 1 << bit);
            assert_int_equal(load(text, good_length), DA_ERROR_FORMAT);
        }
        memcpy(text, good, k);
        memcpy(text + k, good + k + 1, good_length - k - 1);
        assert_int_equal(load(text, good_length - 1), DA_ERROR_FORMAT);
    }
    free(text);
}

/* An edit of the good file, whose checksum is then made right. */
typedef struct edit {
    const char *from, *to, *message;
} edit;

static const edit edits[] = {
    {"profile 1\n", "profile 2\n", "line 1"},
    {"block_size 64", "block_size 8", "out of range"},
    {"block_size 64", "block_size 2000", "out of range"},
    {"block_size 64", "block_size nan", "out of range"},
    {"block_size 64", "block_size 064", "written"},
    {"block_size 64", "size 64", "another line"},
    {"target 0.94999999999999996", "target 1.5", "out of range"},
    {"target 0.94999999999999996", "target 0.95", "written"},
    {"heads 3", "heads 0", "out of range"},
    {"heads 3", "heads 2.5", "out of range"},
    {"heads 3", "heads 65537", "out of range"},
    {"heads 3", "heads 4", "no head"},
    {"heads 3", "heads 2", "more than heads"},
    {"head 1 ", "head 2 ", "written"},
    {"local_window", "mask", "out of range"},
    {"local_window", "profile", "out of range"},
    {"local_window", "nonsense", "out of range"},
    {"hybrid 1\n", "hybrid 0\n", "out of range"},
    {"hybrid 1\n", "hybrid 1.25\n", "out of range"},
    {"hybrid 1\n", "hybrid nan\n", "out of range"},
    {"hybrid 1\n", "hybrid 1 1\n", "written"},
    {"hybrid 1\n", "hybrid 1\nhead 3 hybrid 1\n", "more than heads"},
};

static void test_edits(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof edits / sizeof *edits; k++) {
        char text[MAX_TEXT];
        const char *at = strstr(good, edits[k].from);
        assert_non_null(at);
        int length =
            snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, edits[k].to, at + strlen(edits[k].from));
        uint64_t sum = da_hash(text, (size_t)length - LAST_LINE);
        snprintf(text + length - LAST_LINE, LAST_LINE + 1, "checksum %016llx\n", (unsigned long long)sum);
        assert_int_equal(load(text, (size_t)length), DA_ERROR_FORMAT);
        assert_message_has(edits[k].message);
    }
}

/* Too large to be one. */
static void test_large(void **state) {
    size_t length = (size_t)16 << 20;
    char *text = calloc(length, 1);
    (void)state;
    assert_non_null(text);
    assert_int_equal(load(text, length), DA_ERROR_FORMAT);
    assert_message_has("allowed: at most");
    free(text);
}

static void test_short_memory(void **state) {
    const char *path = temporary_path("good");
    da_status status = DA_ERROR_OUT_OF_MEMORY;
    long failed = 0;
    (void)state;
    for (long at = 1; status != DA_OK; at++) {
        counting_allocator counter = {.fail_from = at, .fail_to = at};
        da_allocator allocator = counting_allocator_interface(&counter);
        da_sparse_profile *profile;
        status = da_sparse_profile_load(&allocator, path, &profile);
        assert_true(status == DA_OK || status == DA_ERROR_OUT_OF_MEMORY);
        failed += status != DA_OK;
        if (status == DA_OK) {
            counter.fail_from = counter.fail_to = atomic_load(&counter.calls) + 1;
            assert_int_equal(da_sparse_profile_save(profile, temporary_path("other")), DA_ERROR_OUT_OF_MEMORY);
        }
        da_sparse_profile_free(profile);
        assert_int_equal(atomic_load(&counter.live), 0);
    }
    assert_true(failed >= 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_damaged),
                                       cmocka_unit_test(test_edits), cmocka_unit_test(test_large),
                                       cmocka_unit_test(test_short_memory)};
    return cmocka_run_group_tests_name("profile_file", tests, make_good, free_good);
}
