/* The learning rate over the steps; the formula stands in dilated_attention_nn.h. */
#include <math.h>

#include "dilated_attention_nn.h"

#define PI 3.14159265358979323846

void da_schedule_init(da_schedule *schedule) {
    if (schedule) {
        *schedule = (da_schedule){.size = sizeof *schedule, .peak = 3e-4, .last = 3e-5};
    }
}

double da_schedule_rate(const da_schedule *schedule, int64_t step) {
    if (step < schedule->warmup_steps) {
        return schedule->peak * (double)(step + 1) / (double)schedule->warmup_steps;
    }
    if (schedule->total_steps == 0) {
        return schedule->peak;
    }
    if (step >= schedule->total_steps) {
        return schedule->last;
    }
    double part = (double)(step - schedule->warmup_steps) / (double)(schedule->total_steps - schedule->warmup_steps);
    return schedule->last + 0.5 * (schedule->peak - schedule->last) * (1 + cos(PI * part));
}
