/* How many pairs of a query of one rank and a key of another there are to compute. */
#ifndef DA_PATTERN_PAIRS_H
#define DA_PATTERN_PAIRS_H

#include "pattern/layout.h"
#include "pattern/pattern.h"

/* Up to this many patterns of a head, pairs that several of them hold are told apart by inclusion and exclusion; its time
 * doubles with each pattern. */
#define DA_MAX_TOLD_APART 8

typedef struct da_pairs {
    double counted;  /* once per pattern that holds the pair */
    double distinct; /* each once; with more than DA_MAX_TOLD_APART patterns equal to `counted` */
} da_pairs;

/* Counts the pairs by the patterns of one head. Exact up to 2^53, and then to rounding. The time grows with the segments
 * that both parts touch and with the pieces in them, and not with tokens. */
da_pairs da_pairs_count(const da_head_patterns *patterns, const da_part *queries, const da_part *keys);

#endif
