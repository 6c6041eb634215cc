/* Included with REAL, EXP and NAME(x) defined. */

static REAL NAME(highest)(int64_t words, const REAL *logits) {
    REAL highest = logits[0];
    for (int64_t v = 1; v < words; v++) {
        highest = logits[v] > highest ? logits[v] : highest;
    }
    return highest;
}

/* sum_v exp(logits_v - highest) */
static double NAME(exponentials)(int64_t words, const REAL *logits, REAL highest) {
    double sum = 0;
    for (int64_t v = 0; v < words; v++) {
        sum += (double)EXP(logits[v] - highest);
    }
    return sum;
}

static double NAME(loss)(int64_t rows, int64_t words, const REAL *logits, const int32_t *targets) {
    double loss = 0;
    for (int64_t r = 0; r < rows; r++, logits += words) {
        if (targets[r] >= 0) {
            REAL highest = NAME(highest)(words, logits);
            loss += log(NAME(exponentials)(words, logits, highest)) + ((double)highest - (double)logits[targets[r]]);
        }
    }
    return loss;
}

static double NAME(gradient)(int64_t rows, int64_t words, double scale, REAL *logits, const int32_t *targets) {
    double loss = 0;
    for (int64_t r = 0; r < rows; r++, logits += words) {
        if (targets[r] < 0) {
            for (int64_t v = 0; v < words; v++) {
                logits[v] = 0;
            }
            continue;
        }
        REAL highest = NAME(highest)(words, logits);
        double of_target = (double)highest - (double)logits[targets[r]], sum = 0;
        for (int64_t v = 0; v < words; v++) {
            logits[v] = EXP(logits[v] - highest);
            sum += (double)logits[v];
        }
        REAL factor = (REAL)(scale / sum);
        for (int64_t v = 0; v < words; v++) {
            logits[v] *= factor;
        }
        logits[targets[r]] -= (REAL)scale;
        loss += log(sum) + of_target;
    }
    return loss;
}
