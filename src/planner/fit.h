/* Least squares with unknowns that are not negative. */
#ifndef DA_PLANNER_FIT_H
#define DA_PLANNER_FIT_H

#define DA_FIT_MAX_UNKNOWNS 16

/* Finds x[0..unknowns-1] >= 0 that make sum_j matrix[i * unknowns + j] * x[j] come close to 1 for every i: the equations
 * are divided by their right sides, so that relative errors count. */
void da_fit(const double *matrix, int equations, int unknowns, double *x);

#endif
