/* Files of plans that must not be trusted: damaged in every way, from elsewhere, or out of range. Nothing of a refused
 * file may be taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "planner/plan_fixtures.h"

enum { LAST_LINE = 26, MAX_TEXT = 1 << 16, PLANS = 3 };

static char *good; /* a file of PLANS plans */
static size_t good_length;

/* The file's checksum, computed a second time from its description: FNV-1a of all before the last line. */
static uint64_t sum_of(const char *text, size_t length) {
    uint64_t sum = 0xcbf29ce484222325u;
    for (size_t k = 0; k < length; k++) {
        sum ^= (unsigned char)text[k];
        sum *= 0x100000001b3u;
    }
    return sum;
}

static int make_good(void **state) {
    da_plans *plans;
    const char *path = temporary_path("good");
    assert_int_equal(da_plans_create(NULL, &plans), DA_OK);
    remember_plan(plans, 1000, (da_tuning){512, 128, 2});
    remember_plan(plans, 2000, (da_tuning){0, 0, 1});
    remember_plan(plans, 3000, (da_tuning){1024, 256, 0});
    assert_int_equal(da_plans_save(plans, path), DA_OK);
    da_plans_free(plans);
    good = read_text(path, &good_length);
    return 0;
}

static int free_good(void **state) {
    free(good);
    return remove_folder(state);
}

/* Loads a text into a store that holds a plan already; the store must stay as it is. Returns the status. */
static da_status load(const char *text, size_t length) {
    da_plans *plans;
    const char *path = temporary_path("tried");
    write_text(path, text, length);
    assert_int_equal(da_plans_create(NULL, &plans), DA_OK);
    remember_plan(plans, 77, (da_tuning){64, 64, 1});
    da_status status = da_plans_load(plans, path);
    assert_int_equal(da_plans_count(plans), status == DA_OK ? 1 + PLANS : 1);
    da_plans_free(plans);
    return status;
}

static void test_good_file(void **state) {
    assert_int_equal(load(good, good_length), DA_OK);
    assert_memory_equal(good, "dilated-attention plans 1\nlibrary ", 34);
    char last[LAST_LINE + 1];
    snprintf(last, sizeof last, "checksum %016llx\n", (unsigned long long)sum_of(good, good_length - LAST_LINE));
    assert_string_equal(good + good_length - LAST_LINE, last);
}

static void test_truncated_at_every_byte(void **state) {
    for (size_t length = 0; length < good_length; length++) {
        assert_int_equal(load(good, length), DA_ERROR_FORMAT);
    }
}

static void test_every_bit_flipped(void **state) {
    char *text = malloc(good_length);
    assert_non_null(text);
    for (size_t k = 0; k < good_length; k++) {
        for (int bit = 0; bit < 8; bit++) {
            memcpy(text, good, good_length);
            text[k] = (char)(text[k] ^ 1 << bit);
            assert_int_equal(load(text, good_length), DA_ERROR_FORMAT);
        }
    }
    free(text);
}

static void test_a_byte_more_or_less(void **state) {
    char *text = malloc(good_length + 1);
    assert_non_null(text);
    for (size_t k = 0; k < good_length; k++) {
        memcpy(text, good, k);
        memcpy(text + k, good + k + 1, good_length - k - 1);
        assert_int_equal(load(text, good_length - 1), DA_ERROR_FORMAT);
        memcpy(text + k, " ", 1);
        memcpy(text + k + 1, good + k, good_length - k);
        assert_int_equal(load(text, good_length + 1), DA_ERROR_FORMAT);
    }
    free(text);
}

/* An edit of the good file, whose checksum is then made right. */
typedef struct edit {
    const char *from, *to; /* of the first line that holds it */
    da_status status;
    const char *message;
} edit;

#define FIRST "plan portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2 > improved 512 128 2 1500000"
#define WITH(text) FIRST, text, DA_ERROR_FORMAT
#define KEY(text) WITH("plan " text " > improved 512 128 2 1500000"), "problem"
#define CHOICE(text) WITH("plan portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2 > " text), "tuning"
#define SPELLING(text)                                                                                                 \
    WITH("plan portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2 > " text), "written"

static const edit edits[] = {
    /* another format, version, machine */
    {"plans 1\n", "plans 2\n", DA_ERROR_FORMAT, "line 1"},
    {"plans 1\n", "plans 1 \n", DA_ERROR_FORMAT, "line 1"},
    {"dilated", "Dilated", DA_ERROR_FORMAT, "line 1"},
    {"library ", "library 9", DA_ERROR_UNAVAILABLE, "elsewhere"},
    {"library ", "version ", DA_ERROR_FORMAT, "line 2"},
    {"cpu ", "cpu z80-", DA_ERROR_UNAVAILABLE, "elsewhere"},
    {"cpu ", "gpu ", DA_ERROR_FORMAT, "line 3"},
    {"\nplan ", " mk2\nplan ", DA_ERROR_UNAVAILABLE, "mk2"},
    {"\nplan ", "\n\nplan ", DA_ERROR_FORMAT, "line 4"},
    /* the problem */
    {KEY("auto 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("sse9 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("Portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 0 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 1025 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable -2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 4294967298 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 any 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f33 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 0 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 16777217 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 0 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 -5 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 281474976710657 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 99999999999999999999999 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 0 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 3 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 -1 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 0 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 257 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 2 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -2 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 shortnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet div mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod pad count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask twice 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/0 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/65 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count -64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64 128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1,128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2 ")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1  128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 0128/2")},
    {KEY("portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 99999999999999999999/1")},
    {KEY("portable 2 f32 1 +1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1e3 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable\t2 f32 1 1000 2 2 8 0 -1 longnet mod mask count 64/1 128/2")},
    {KEY("portable 2 f32 1 1000 2 2")},
    {KEY("portable")},
    {KEY("")},
    /* the choice */
    {CHOICE("distributed 512 128 2 1500000")},
    {CHOICE("fastest 512 128 2 1500000")},
    {CHOICE("auto 512 128 2 1500000")},
    {CHOICE("improved 8193 128 2 1500000")},
    {CHOICE("improved -1 128 2 1500000")},
    {CHOICE("improved 512 65 2 1500000")},
    {CHOICE("improved 512 320 2 1500000")},
    {CHOICE("improved 512 -64 2 1500000")},
    {CHOICE("improved 512 128 3 1500000")},
    {CHOICE("improved 512 128 -1 1500000")},
    {CHOICE("improved 512 128 2 0")},
    {CHOICE("improved 512 128 2 -7")},
    {CHOICE("improved 512 128 2")},
    {CHOICE("improved")},
    {CHOICE("")},
    {CHOICE("improved x 128 2 1500000")},
    {SPELLING("improved 512 128 2 1500000 ")},
    {SPELLING("improved 512 128 2 1500000 9")},
    {SPELLING("improved 512 128 2 01500000")},
    {SPELLING("improved 512 128 2 +1500000")},
    {SPELLING("improved 512 128 2 1500000.5")},
    {SPELLING("improved 512 128 2 1000000000000000000")},
    {SPELLING("improved  512 128 2 1500000")},
    {SPELLING("improved 0512 128 2 1500000")},
    /* lines */
    {WITH("plan"), "no plan"},
    {WITH("plan x"), "no plan"},
    {WITH("plans x > y"), "no plan"},
    {WITH(FIRST "\n" FIRST), "twice"},
    {WITH(FIRST "\r"), "written"},
    {"1 1000 2", "1 9000 2", DA_ERROR_FORMAT, "out of order"},
};

/* Replaces the first `from`; the rest moves. */
static size_t apply(const edit *change, char text[MAX_TEXT]) {
    const char *place = strstr(good, change->from);
    assert_non_null(place);
    int length = snprintf(text, MAX_TEXT, "%.*s%s%.*s", (int)(place - good), good, change->to,
                          (int)(good_length - LAST_LINE - (size_t)(place - good) - strlen(change->from)),
                          place + strlen(change->from));
    return (size_t)length +
           (size_t)sprintf(text + length, "checksum %016llx\n", (unsigned long long)sum_of(text, (size_t)length));
}

static void test_edits(void **state) {
    static char text[MAX_TEXT];
    assert_non_null(strstr(good, FIRST "\n"));
    for (size_t k = 0; k < sizeof edits / sizeof *edits; k++) {
        da_status status = load(text, apply(&edits[k], text));
        if (status != edits[k].status) {
            fail_msg("\"%s\" gave %s: %s", edits[k].to, da_status_name(status), da_last_error_message());
        }
        assert_message_has(edits[k].message);
        assert_message_has("tried");
    }
}

/* The edit itself, with its checksum, is not what is refused. */
static void test_harmless_edit(void **state) {
    static char text[MAX_TEXT];
    const edit harmless = {"improved 512", "standard 256", DA_OK, ""};
    assert_int_equal(load(text, apply(&harmless, text)), DA_OK);
}

/* The longest keys that there can be, and one pattern too many. */
static void test_many_patterns(void **state) {
    static char text[MAX_TEXT], line[8192];
    for (int patterns = DA_MAX_PATTERNS; patterns <= DA_MAX_PATTERNS + 1; patterns++) {
        int length = sprintf(line, "plan portable 2 f32 1 1000 2 2 8 0 -1 longnet mod mask count");
        for (int p = 0; p < patterns; p++) {
            length += sprintf(line + length, " 9223372036854775807/9223372036854775807");
        }
        sprintf(line + length, " > improved 512 128 2 1500000");
        const edit change = {FIRST, line, DA_OK, ""};
        da_status status = load(text, apply(&change, text));
        /* Keys are sorted, and "9" comes after "6": so only the order may be wrong. */
        assert_int_equal(status, patterns > DA_MAX_PATTERNS ? DA_ERROR_FORMAT : DA_OK);
    }
}

static void test_long_line(void **state) {
    static char text[MAX_TEXT], line[20000];
    memset(line, 'x', sizeof line - 1);
    memcpy(line, "plan ", 5);
    const edit change = {FIRST, line, DA_ERROR_FORMAT, ""};
    assert_int_equal(load(text, apply(&change, text)), DA_ERROR_FORMAT);
}

static void test_no_plans_at_all(void **state) {
    static char text[MAX_TEXT];
    da_plans *plans;
    size_t length = (size_t)(strstr(good, "plan portable") - good);
    memcpy(text, good, length);
    length += (size_t)sprintf(text + length, "checksum %016llx\n", (unsigned long long)sum_of(good, length));
    write_text(temporary_path("tried"), text, length);
    assert_int_equal(da_plans_create(NULL, &plans), DA_OK);
    assert_int_equal(da_plans_load(plans, temporary_path("tried")), DA_OK);
    assert_int_equal(da_plans_count(plans), 0);
    da_plans_free(plans);
}

static void test_huge_file(void **state) {
    size_t length = ((size_t)16 << 20) + 1;
    char *text = calloc(1, length);
    assert_non_null(text);
    memset(text, 'a', length);
    assert_int_equal(load(text, length), DA_ERROR_FORMAT);
    assert_message_has("at most");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_truncated_at_every_byte),
        cmocka_unit_test(test_every_bit_flipped),
        cmocka_unit_test(test_a_byte_more_or_less),
        cmocka_unit_test(test_edits),
        cmocka_unit_test(test_harmless_edit),
        cmocka_unit_test(test_many_patterns),
        cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_no_plans_at_all),
        cmocka_unit_test(test_huge_file),
    };
    return cmocka_run_group_tests(tests, make_good, free_good);
}
