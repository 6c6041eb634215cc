#include "planner/fit.h"

#define SWEEPS 20000

/* Coordinate descent on the normal equations: each unknown in turn takes its best value, or 0. */
void da_fit(const double *matrix, int equations, int unknowns, double *x) {
    double products[DA_FIT_MAX_UNKNOWNS][DA_FIT_MAX_UNKNOWNS] = {{0}}, sums[DA_FIT_MAX_UNKNOWNS] = {0};
    for (int j = 0; j < unknowns; j++) {
        x[j] = 0;
        for (int i = 0; i < equations; i++) {
            sums[j] += matrix[i * unknowns + j];
            for (int k = 0; k < unknowns; k++) {
                products[j][k] += matrix[i * unknowns + j] * matrix[i * unknowns + k];
            }
        }
    }
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        for (int j = 0; j < unknowns; j++) {
            double rest = sums[j];
            for (int k = 0; k < unknowns; k++) {
                rest -= k != j ? products[j][k] * x[k] : 0;
            }
            x[j] = rest > 0 && products[j][j] > 0 ? rest / products[j][j] : 0;
        }
    }
}
