/* The problem that a plan belongs to, as one line of text: all that bears on speed and nothing else, written in one way
 * only. */
#ifndef DA_PLANNER_PLAN_KEY_H
#define DA_PLANNER_PLAN_KEY_H

#include "dilated_attention.h"

/* Room for DA_MAX_PATTERNS patterns of the longest numbers. */
#define DA_PLAN_KEY_SIZE 3072

/* What a key says. */
typedef struct da_plan_subject {
    da_isa isa;
    int threads; /* of the context */
    da_attention_config config;
    da_problem problem; /* n and kv_heads filled in */
} da_plan_subject;

void da_plan_subject_of(const da_context *context, const da_attention_config *config, const da_problem *problem,
                        da_plan_subject *subject);

void da_plan_key_write(const da_plan_subject *subject, char key[DA_PLAN_KEY_SIZE]);

/* Reads a key that da_plan_key_write wrote; false for any other text. */
bool da_plan_key_read(const char *key, da_plan_subject *subject);

#endif
