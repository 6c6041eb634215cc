/* Xavier normal numbers from a counter: element e of a parameter is the same whatever else is drawn. */
#include <math.h>

#include "attention/dropout.h"
#include "multihead/convert.h"
#include "multihead/parameters.h"

#define TWO_PI 6.28318530717958647692

/* A number in (0, 1). */
static double uniform(uint32_t key, uint64_t counter) {
    return (da_philox_2x32(key, (uint32_t)counter, (uint32_t)(counter >> 32)) + 0.5) * 0x1p-32;
}

/* One of the two normal numbers of Box and Muller (1958). */
static double normal(uint32_t key, int64_t element) {
    double radius = sqrt(-2 * log(uniform(key, 2 * (uint64_t)element)));
    return radius * cos(TWO_PI * uniform(key, 2 * (uint64_t)element + 1));
}

void da_draw_normal(da_dtype dtype, void *data, int64_t first, int64_t count, double deviation, uint64_t seed,
                    uint32_t stream) {
    uint32_t key = da_philox_2x32((uint32_t)seed, (uint32_t)(seed >> 32), stream);
    for (int64_t e = 0; e < count; e++) {
        double value = deviation * normal(key, first + e);
        da_convert(DA_F64, &value, 1, dtype, (char *)data + (size_t)e * da_dtype_size(dtype), 1, 1);
    }
}

void da_parameters_initialise(const da_parameter_table *table, void *base, const da_multihead_config *config,
                              uint64_t seed) {
    da_parameters_reset(table, base, config->dtype);
    for (size_t k = 0; k < table->count; k++) {
        const da_parameter_shape *entry = &table->entries[k];
        bool has_gain = entry->id == DA_V_WEIGHT || entry->id == DA_OUT_WEIGHT;
        if (entry->rank == 2) {
            double gain = has_gain ? config->gamma_init : 1;
            double deviation = gain * sqrt(2.0 / (double)(entry->whole_rows + entry->shape[1]));
            da_draw_normal(config->dtype, da_parameter_address(table, base, config->dtype, entry->id),
                           entry->first_row * entry->shape[1], entry->count, deviation, seed, (uint32_t)entry->id);
        }
    }
}
