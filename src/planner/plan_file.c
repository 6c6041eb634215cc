/* Plans in a text file:
 *
 *     dilated-attention plans 1
 *     library 0.1.0
 *     cpu x86_64 31 2 AMD EPYC 9R14          architecture, features, cores, name
 *     plan KEY > improved 1024 256 2 1250000       unit, block_keys, threads, nanoseconds
 *     ...
 *     checksum 0123456789abcdef              of all bytes before this line
 *
 * Every line must be exactly what this version would write for what it reads there: there is no second spelling. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/checked_text.h"
#include "core/parallel.h"
#include "hardware/hardware.h"
#include "planner/plans.h"

#define MAX_FILE_BYTES ((size_t)16 << 20)
#define LINE_SIZE (DA_PLAN_KEY_SIZE + 192)
#define FIRST_LINE "dilated-attention plans 1"

/* The lines that say where plans were made. */
static void write_library(char line[LINE_SIZE]) {
    snprintf(line, LINE_SIZE, "library %s", da_version());
}

static void write_cpu(char line[LINE_SIZE]) {
    da_hardware here;
    da_hardware_init(&here);
    da_detect_machine(&here);
    snprintf(line, LINE_SIZE, "cpu %s %" PRIu32 " %d %s", here.architecture[0] ? here.architecture : "?",
             here.cpu_features, here.cores, here.cpu_name[0] ? here.cpu_name : "?");
}

static void write_plan(const char *key, const da_remembered *plan, char line[LINE_SIZE]) {
    snprintf(line, LINE_SIZE, "plan %s > %s %" PRId64 " %d %d %lld", key, plan->implementation, plan->tuning.unit,
             plan->tuning.block_keys, plan->tuning.threads, llround(plan->seconds * 1e9));
}

static da_status check_arguments(const da_plans *plans, const char *path) {
    if (!plans || !path || path[0] == '\0') {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s; allowed: %s",
                         !plans  ? "plans is NULL"
                         : !path ? "path is NULL"
                                 : "path is empty",
                         plans ? "the name of a file" : "what da_plans_create made");
    }
    return DA_OK;
}

da_status da_plans_save(const da_plans *plans, const char *path) {
    char line[LINE_SIZE];
    da_plan_list list;
    da_status status = check_arguments(plans, path);
    if (status == DA_OK) {
        status = da_plans_copy(plans, &list);
    }
    if (status != DA_OK) {
        return status;
    }
    da_text text = {.allocator = da_plans_allocator(plans)};
    da_text_append(&text, "%s\n", FIRST_LINE);
    write_library(line);
    da_text_append(&text, "%s\n", line);
    write_cpu(line);
    da_text_append(&text, "%s\n", line);
    for (size_t k = 0; k < list.count; k++) {
        write_plan(list.entries[k].key, &list.entries[k].plan, line);
        da_text_append(&text, "%s\n", line);
    }
    status = da_checked_text_save(path, &text);
    da_text_free(&text);
    da_plan_list_free(&list);
    return status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static da_status check_origin(da_checked_text *r, void (*write)(char line[LINE_SIZE]), const char *prefix) {
    char here[LINE_SIZE];
    const char *line = da_checked_text_line(r);
    if (!line || strncmp(line, prefix, strlen(prefix)) != 0) {
        return da_checked_text_damaged(r, "another line was expected");
    }
    write(here);
    if (strcmp(line, here) != 0) {
        return da_report(DA_ERROR_UNAVAILABLE,
                         "%s: its plans were made elsewhere: it says \"%.200s\", and this is \"%s\"", r->path, line,
                         here);
    }
    return DA_OK;
}

static da_status check_head(da_checked_text *r) {
    const char *line = da_checked_text_line(r);
    if (!line || strcmp(line, FIRST_LINE) != 0) {
        return da_checked_text_damaged(r, "it is not \"" FIRST_LINE "\"");
    }
    da_status status = check_origin(r, write_library, "library ");
    return status == DA_OK ? check_origin(r, write_cpu, "cpu ") : status;
}

/* Everything that follows the key. */
static bool read_choice(const char *text, da_remembered *plan) {
    char name[64];
    long long nanoseconds = 0;
    da_attention_config config;
    da_attention_config_init(&config);
    config.segment_count = config.rate_count = 1;
    config.segment_lengths[0] = config.dilation_rates[0] = 1;
    int read = sscanf(text, "%63s %4" SCNd64 " %4d %4d %18lld", name, &config.tuning.unit, &config.tuning.block_keys,
                      &config.tuning.threads, &nanoseconds);
    plan->implementation = read == 5 ? da_plans_implementation(name) : NULL;
    plan->tuning = config.tuning;
    plan->seconds = 1e-9 * (double)nanoseconds;
    return plan->implementation && da_attention_config_validate(&config) == DA_OK && nanoseconds > 0;
}

static da_status read_plan(da_checked_text *r, char *line, da_plan_list *list) {
    static const char prefix[] = "plan ", between[] = " > ";
    char copy[LINE_SIZE], again[LINE_SIZE];
    da_plan_subject subject;
    da_remembered plan;
    if (strncmp(line, prefix, strlen(prefix)) != 0 || strlen(line) >= LINE_SIZE) {
        return da_checked_text_damaged(r, "it is no plan");
    }
    memcpy(copy, line, strlen(line) + 1);
    char *key = line + strlen(prefix), *end = strstr(key, between);
    if (!end) {
        return da_checked_text_damaged(r, "it is no plan");
    }
    *end = '\0';
    if (!da_plan_key_read(key, &subject)) {
        return da_checked_text_damaged(r, "its problem is out of range");
    }
    if (!read_choice(end + strlen(between), &plan) || plan.tuning.threads > subject.threads) {
        return da_checked_text_damaged(r, "its tuning is out of range");
    }
    write_plan(key, &plan, again);
    if (strcmp(copy, again) != 0) {
        return da_checked_text_damaged(r, "a number is not written as it should be");
    }
    if (list->count > 0 && strcmp(list->entries[list->count - 1].key, key) >= 0) {
        return da_checked_text_damaged(r, "it is there twice, or out of order");
    }
    return da_plan_list_add(list, key, &plan);
}

static da_status read_all(da_checked_text *r, da_plan_list *list) {
    da_status status = check_head(r);
    for (char *line; status == DA_OK && (line = da_checked_text_line(r)) != NULL;) {
        status = read_plan(r, line, list);
    }
    return status;
}

da_status da_plans_load(da_plans *plans, const char *path) {
    da_checked_text r;
    da_status status = check_arguments(plans, path);
    if (status != DA_OK) {
        return status;
    }
    const da_allocator *allocator = da_plans_allocator(plans);
    da_plan_list list = {.allocator = allocator};
    status = da_checked_text_open(&r, allocator, path, "file of plans", MAX_FILE_BYTES);
    if (status == DA_OK) {
        status = read_all(&r, &list);
    }
    if (status == DA_OK) {
        status = da_plans_merge(plans, &list);
    }
    da_plan_list_free(&list);
    da_checked_text_close(&r);
    return status;
}
