#include "planner/plan_key.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/validation.h"

#define NAME_SIZE 32

void da_plan_subject_of(const da_context *context, const da_attention_config *config, const da_problem *problem,
                        da_plan_subject *subject) {
    *subject = (da_plan_subject){da_context_isa(context), da_context_threads(context), *config, *problem};
}

void da_plan_key_write(const da_plan_subject *subject, char key[DA_PLAN_KEY_SIZE]) {
    const da_attention_config *config = &subject->config;
    const da_problem *problem = &subject->problem;
    int length =
        snprintf(key, DA_PLAN_KEY_SIZE,
                 "%s %d %s %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %d %" PRId64 " %s %s %s %s",
                 da_isa_name(subject->isa), subject->threads, da_dtype_name(problem->dtype), problem->batch, problem->n,
                 problem->heads, problem->kv_heads, problem->head_dim, config->causal, config->window,
                 da_mixing_name(config->mixing), da_offset_rule_name(config->offset_rule),
                 da_tail_rule_name(config->tail_rule), da_overlap_name(config->overlap));
    for (size_t p = 0; p < config->segment_count; p++) {
        length += snprintf(key + length, DA_PLAN_KEY_SIZE - (size_t)length, " %" PRId64 "/%" PRId64,
                           config->segment_lengths[p], config->dilation_rates[p]);
    }
}

/* Moves *text past one word, of which the beginning goes into `word`; false at the end. */
static bool next_word(const char **text, char word[NAME_SIZE]) {
    *text += **text == ' ';
    size_t length = strcspn(*text, " ");
    if (length == 0) {
        return false;
    }
    snprintf(word, NAME_SIZE, "%.*s", (int)length, *text);
    *text += length;
    return true;
}

static bool next_number(const char **text, int64_t *number) {
    char word[NAME_SIZE];
    if (!next_word(text, word)) {
        return false;
    }
    *number = strtoll(word, NULL, 10);
    return true;
}

static bool read_shape(const char **text, da_plan_subject *subject) {
    da_problem *problem = &subject->problem;
    int64_t causal = 0;
    bool read = next_number(text, &problem->batch) && next_number(text, &problem->n) &&
                next_number(text, &problem->heads) && next_number(text, &problem->kv_heads) &&
                next_number(text, &problem->head_dim) && next_number(text, &causal) &&
                next_number(text, &subject->config.window);
    subject->config.causal = causal != 0;
    return read;
}

static bool read_rules(const char **text, da_attention_config *config) {
    char word[NAME_SIZE];
    return next_word(text, word) && da_mixing_from_name(word, &config->mixing) == DA_OK && next_word(text, word) &&
           da_offset_rule_from_name(word, &config->offset_rule) == DA_OK && next_word(text, word) &&
           da_tail_rule_from_name(word, &config->tail_rule) == DA_OK && next_word(text, word) &&
           da_overlap_from_name(word, &config->overlap) == DA_OK;
}

static void read_patterns(const char *text, da_attention_config *config) {
    size_t count = 0;
    while (*text == ' ' && count < DA_MAX_PATTERNS) {
        char *end;
        config->segment_lengths[count] = strtoll(text, &end, 10);
        config->dilation_rates[count++] = *end == '/' ? strtoll(end + 1, &end, 10) : 0;
        text = end;
    }
    config->segment_count = config->rate_count = count;
}

static bool read_words(const char *key, da_plan_subject *subject) {
    char word[NAME_SIZE];
    int64_t threads;
    if (!next_word(&key, word) || da_isa_from_name(word, &subject->isa) != DA_OK || !next_number(&key, &threads)) {
        return false;
    }
    subject->threads = threads >= 1 && threads <= DA_MAX_THREADS ? (int)threads : 0;
    if (!next_word(&key, word) || da_dtype_from_name(word, &subject->problem.dtype) != DA_OK) {
        return false;
    }
    if (!read_shape(&key, subject) || !read_rules(&key, &subject->config)) {
        return false;
    }
    read_patterns(key, &subject->config);
    return subject->isa != DA_ISA_AUTO && subject->threads >= 1;
}

/* The words are read loosely, their values are checked as those of a caller, and what was understood must give the same
 * text again. */
bool da_plan_key_read(const char *key, da_plan_subject *subject) {
    char again[DA_PLAN_KEY_SIZE];
    da_attention_config config;
    da_problem problem;
    *subject = (da_plan_subject){.threads = 0};
    da_attention_config_init(&subject->config);
    da_problem_init(&subject->problem);
    if (!read_words(key, subject) || da_attention_config_import(&subject->config, &config) != DA_OK ||
        da_problem_import(&subject->problem, &problem) != DA_OK || problem.n < 1) {
        return false;
    }
    da_plan_key_write(subject, again);
    return strcmp(again, key) == 0;
}
