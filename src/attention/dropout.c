#include "attention/dropout.h"

uint32_t da_philox_4x32(uint64_t seed, uint32_t counter_0, uint32_t counter_1) {
    uint32_t key_0 = (uint32_t)seed, key_1 = (uint32_t)(seed >> 32), c[4] = {counter_0, counter_1, 0, 0};
    for (int round = 0; round < 10; round++) {
        uint64_t product_0 = (uint64_t)0xD2511F53u * c[0], product_1 = (uint64_t)0xCD9E8D57u * c[2];
        c[0] = (uint32_t)(product_1 >> 32) ^ c[1] ^ key_0;
        c[1] = (uint32_t)product_1;
        c[2] = (uint32_t)(product_0 >> 32) ^ c[3] ^ key_1;
        c[3] = (uint32_t)product_0;
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
    return c[0];
}

void da_dropout_begin(da_dropout *out, double dropout, uint64_t seed, int64_t batch, int64_t head) {
    *out = (da_dropout){
        .applies = dropout > 0,
        .key = da_philox_4x32(seed, (uint32_t)head, (uint32_t)batch),
        .threshold = (uint32_t)(dropout * 4294967296.0),
        .factor = 1 / (1 - dropout),
    };
}

bool da_dropout_keeps(double dropout, uint64_t seed, int64_t batch, int64_t head, int64_t query, int64_t key) {
    da_dropout of_head;
    da_dropout_begin(&of_head, dropout, seed, batch, head);
    return da_dropout_keeps_pair(&of_head, query, key);
}
