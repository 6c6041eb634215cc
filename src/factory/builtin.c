/* The table of built-in implementations, in the order in which they are listed. Names that the factory's rules know but
 * this version does not contain are registered too: so "auto" and da_implementation_get_info can say why they are not
 * chosen. They take no option and no data type, and are never available. */
#include "factory/builtin.h"

#include <stdio.h>

#include "attention/improved/improved.h"
#include "attention/ring/ring.h"
#include "attention/standard/standard.h"

static bool is_absent(const da_context *context, char *reason, size_t reason_size, void *user) {
    snprintf(reason, reason_size, "not part of this version (%s)", da_version());
    return false;
}

/* The table needs a forward; creation refuses what is not available, so no handle leads here. */
static da_status refuse_forward(void *state, const da_forward_call *call, void *user) {
    return da_report(DA_ERROR_UNAVAILABLE, "this implementation is not part of this version (%s)", da_version());
}

static const da_implementation distributed = {
    .size = sizeof(da_implementation),
    .name = "distributed",
    .description = "the sequence or the heads are split over several processes",
    .best_for = "several machines or GPUs",
    .memory = "the kept keys and values of segments that span processes",
    .available = is_absent,
    .forward = refuse_forward,
};

static const da_implementation block_sparse = {
    .size = sizeof(da_implementation),
    .name = "block_sparse",
    .description = "computes some tiles of the dilated pattern only; approximate",
    .best_for = "speed where an approximation will do",
    .memory = "a fixed workspace per thread, and the list of tiles",
    .available = is_absent,
    .forward = refuse_forward,
};

const da_implementation *const da_built_ins[DA_BUILT_IN_COUNT] = {
    &da_standard_implementation, &da_improved_implementation, &da_ring_implementation, &distributed, &block_sparse,
};
