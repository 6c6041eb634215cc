/* A plan over ranks, for people. */
#include <inttypes.h>

#include "core/quantities.h"
#include "planner/ranks.h"

/* A line with a quantity of each scheme. */
static void append_line(da_text *text, const char *label, const char *(*format)(double, char *),
                        const double values[DA_SCHEMES], const char *remark) {
    da_text_append(text, "  %-10s", label);
    for (int s = 0; s < DA_SCHEMES; s++) {
        char value[DA_QUANTITY_SIZE];
        da_text_append(text, " %12s", format(values[s], value));
    }
    da_text_append(text, "  %s\n", remark);
}

static void append_times(da_text *text, const da_ranks_plan *plan) {
    double seconds[DA_SCHEMES], computes[DA_SCHEMES] = {0}, transfers[DA_SCHEMES] = {0};
    for (int s = 0; s < DA_SCHEMES; s++) {
        seconds[s] = plan->totals[s].seconds;
        for (int k = 0; k < plan->count; k++) {
            const da_rank_share *share = &plan->shares[s][k];
            computes[s] = share->compute_seconds > computes[s] ? share->compute_seconds : computes[s];
            transfers[s] = share->transfer_seconds > transfers[s] ? share->transfer_seconds : transfers[s];
        }
    }
    append_line(text, "time", da_format_seconds, seconds, "until the last rank is done");
    append_line(text, "computing", da_format_seconds, computes, "of the rank that computes longest");
    append_line(text, "messages", da_format_seconds, transfers, "of the rank that transfers longest");
}

static void append_bytes(da_text *text, const da_ranks_plan *plan) {
    double received[DA_SCHEMES], memory[DA_SCHEMES], beyond[DA_SCHEMES] = {0};
    for (int s = 0; s < DA_SCHEMES; s++) {
        received[s] = plan->totals[s].bytes_most;
        memory[s] = plan->totals[s].memory_most;
        for (int k = 0; k < plan->count; k++) {
            double bytes = plan->shares[s][k].memory_bytes;
            beyond[s] = bytes > beyond[s] ? bytes : beyond[s];
        }
    }
    append_line(text, "received", da_format_bytes, received, "by the rank that receives most");
    append_line(text, "memory", da_format_bytes, memory, "of a rank, with its tensors");
    append_line(text, "", da_format_bytes, beyond, "of it beyond the tensors");
}

/* How the call of a pass is divided by `distributed`, and why. */
static void append_split(da_text *text, const da_ranks_plan *plan, da_pass pass) {
    const da_split_seconds *seconds = &plan->split_seconds[pass];
    char tokens[DA_QUANTITY_SIZE], heads[DA_QUANTITY_SIZE];
    da_text_append(text, "split:  %s by %s: ", pass == DA_PASS_FORWARD ? "forward" : "backward",
                   da_split_name(plan->split[pass]));
    if (plan->config.split != DA_SPLIT_AUTO) {
        da_text_append(text, "as configured\n");
    } else if (!plan->split_is_open) {
        da_text_append(text, "%" PRId64 " key head%s for %d rank%s\n", plan->problem.kv_heads,
                       plan->problem.kv_heads == 1 ? "" : "s", plan->options.ranks,
                       plan->options.ranks == 1 ? "" : "s");
    } else {
        da_text_append(text, "%s by tokens, %s by heads\n", da_format_seconds(seconds->by_tokens, tokens),
                       da_format_seconds(da_seconds_by_heads(seconds), heads));
    }
}

da_status da_ranks_write_text(da_ranks_plan *plan) {
    const da_ranks_total *total = &plan->totals[plan->choice];
    da_text *text = &plan->text;
    da_text_append(text, "over %d rank%s, %s, %" PRId64 " tokens, %s", plan->options.ranks,
                   plan->options.ranks == 1 ? "" : "s", da_partition_name(plan->config.partition), plan->problem.n,
                   plan->options.backward ? "forward and backward" : "forward");
    if (plan->count < plan->options.ranks) {
        da_text_append(text, " (%d ranks stand for all)", plan->count);
    }
    da_text_append(text, "\n  %-10s %12s %12s %12s %12s\n", "", "ring", "distributed", "by tokens", "by heads");
    append_times(text, plan);
    append_bytes(text, plan);
    da_text_append(text, "choice: %s\nwhy:    %s; arithmetic of the rank with the most is %.2f times the mean\n",
                   da_scheme_name(plan->choice), plan->reason, total->balance);
    append_split(text, plan, DA_PASS_FORWARD);
    if (plan->options.backward) {
        append_split(text, plan, DA_PASS_BACKWARD);
    }
    return text->failed ? DA_ERROR_OUT_OF_MEMORY : DA_OK;
}
