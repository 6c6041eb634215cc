#define _XOPEN_SOURCE 700

#include "planner/plan_fixtures.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATH_SIZE = 512, PATHS = 8 };

static char folder[PATH_SIZE];

da_attention_config plan_config(void) {
    da_attention_config config;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){64, 128}, 2, (int64_t[]){1, 2}, 2), DA_OK);
    return config;
}

da_problem plan_problem(int64_t n) {
    da_problem problem;
    da_problem_init(&problem);
    problem.n = n;
    problem.heads = problem.kv_heads = 2;
    problem.head_dim = 8;
    return problem;
}

da_context *plan_context(int threads, da_plans *plans, counting_allocator *counter) {
    da_context_options options;
    da_context *context;
    da_context_options_init(&options);
    options.threads = threads;
    options.isa = DA_ISA_PORTABLE;
    options.plans = plans;
    if (counter) {
        options.allocator = counting_allocator_interface(counter);
    }
    da_context_create(&options, &context);
    return context;
}

void remember_plan(da_plans *plans, int64_t n, da_tuning tuning) {
    da_plan_subject subject = {DA_ISA_PORTABLE, 2, plan_config(), plan_problem(n)};
    da_remembered plan = {da_plans_implementation("improved"), tuning, 1.5e-3};
    char key[DA_PLAN_KEY_SIZE];
    da_plan_key_write(&subject, key);
    assert_int_equal(da_plans_remember(plans, key, &plan), DA_OK);
}

static const char *make_folder(void) {
    const char *base = getenv("TMPDIR");
    if (folder[0] == '\0') {
        snprintf(folder, sizeof folder, "%s/plans-XXXXXX", base && base[0] ? base : "/tmp");
        assert_non_null(mkdtemp(folder));
    }
    return folder;
}

const char *temporary_path(const char *name) {
    static char paths[PATHS][2 * PATH_SIZE];
    static int next;
    char *path = paths[next++ % PATHS];
    snprintf(path, sizeof paths[0], "%s/%s", make_folder(), name);
    return path;
}

char *read_text(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    *length = fread(text, 1, (1 << 20) - 1, file);
    fclose(file);
    return text;
}

void write_text(const char *path, const char *text, size_t length) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static int go_through_folder(bool removes) {
    int count = 0;
    DIR *entries = opendir(make_folder());
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] != '.') {
            count++;
            if (removes) {
                unlink(temporary_path(entry->d_name));
            }
        }
    }
    closedir(entries);
    return count;
}

int files_in_folder(void) {
    return go_through_folder(false);
}

int remove_folder(void **state) {
    go_through_folder(true);
    return rmdir(folder);
}

void assert_message_has(const char *part) {
    if (!strstr(da_last_error_message(), part)) {
        fail_msg("\"%s\" is missing in: %s", part, da_last_error_message());
    }
}
