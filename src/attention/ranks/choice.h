/* How `distributed` divides the work of a call: by tokens, or by heads. One model of what either takes decides, in calls and
 * in plans (planner/ranks.c): each rank reckons its own part, and the slowest of all counts. */
#ifndef DA_ATTENTION_RANKS_CHOICE_H
#define DA_ATTENTION_RANKS_CHOICE_H

#include "attention/ranks/heads.h"
#include "attention/ranks/meeting.h"
#include "planner/rates.h"
#include "planner/traffic.h"

/* Seconds of a rank. */
typedef struct da_split_seconds {
    double by_tokens; /* until it is done */
    double heads_computed,
        heads_results; /* by heads: until it has computed; of the exchange of results, which waits for all */
} da_split_seconds;

/* Is there anything to choose? With fewer key heads than ranks, some of these would have nothing to do. */
static inline bool da_split_is_open(const da_attention_config *config, int64_t kv_heads, int ranks) {
    return config->split == DA_SPLIT_AUTO && kv_heads >= ranks;
}

/* What a rank takes for messages that are under way together: the bytes that come and those that go travel at once. */
double da_exchange_seconds(const da_rates *rates, const da_exchange *exchange);

/* What a pair takes, in both directions of a backward pass together. */
static inline double da_pass_pair_seconds(const da_rates *rates, da_pass pass) {
    return pass == DA_PASS_FORWARD ? rates->pair.forward : rates->pair.grad_query + rates->pair.grad_keys;
}

/* By tokens: one direction of a pass, its pairs with the rank's own columns, which are computed while the others travel, and
 * those with the others. */
double da_gathered_seconds(const da_rates *rates, const da_exchange *exchange, double own_pairs, double other_pairs,
                           double pair_seconds);

/* By heads: what a rank goes through. */
typedef struct da_heads_course {
    da_exchange inputs, outputs; /* of all turns */
    double pairs;
    double computed, results; /* as da_split_seconds has them */
} da_heads_course;

/* While a turn is computed, the next one's inputs and the last one's results travel: the first turn's inputs and the last
 * one's results nothing hides. share: as of da_traffic_distinct_share. */
da_heads_course da_heads_go_through(const da_rates *rates, da_traffic *traffic, const da_layout *layout, da_pass pass,
                                    int rank, double share);

/* Of each time the longest. */
da_split_seconds da_slowest_split(const da_split_seconds *of_ranks, int count);

static inline double da_seconds_by_heads(const da_split_seconds *slowest) {
    return slowest->heads_computed + slowest->heads_results;
}

static inline bool da_heads_are_quicker(const da_split_seconds *slowest) {
    return da_seconds_by_heads(slowest) < slowest->by_tokens;
}

/* Bytes that each rank says of itself for the choice; and that the choice takes for so many ranks, with this traffic. */
size_t da_choice_said_bytes(void);
size_t da_choice_memory(int ranks, const da_traffic *traffic);

/* Sets *by_heads, the same on every rank. By tokens, kept keys and values travel, as many as the patterns say; by heads, all
 * tensors of the call do, and heads that do not divide evenly leave ranks idle. The rates are the context's: those it was
 * given, or has measured for a plan of the same problem (da_rates_known). They may differ from rank to rank. Collective,
 * where there is a choice. Errors: DA_ERROR_COMMUNICATION, DA_ERROR_OUT_OF_MEMORY. */
da_status da_choose_split(const da_meeting *meeting, da_pass pass, const da_tensor *query, const da_tensor *key,
                          bool *by_heads);

#endif
