/* Time of a call over the length of the sequence, as many tokens for each rank: both axes logarithmic. */
#ifndef DA_CLI_DRAWING_SCALING_H
#define DA_CLI_DRAWING_SCALING_H

#include "drawing/picture.h"

#define SCALING_MAX 32

typedef struct scaling_point {
    int64_t ranks, tokens;
    double seconds[2], bytes[2], memory[2]; /* ring, distributed; of the rank with the most */
    double dense_seconds;                   /* of dense attention on as many ranks that never wait */
} scaling_point;

typedef struct scaling {
    size_t count; /* 2 .. SCALING_MAX */
    scaling_point points[SCALING_MAX];
} scaling;

picture_painter scaling_paint; /* user: scaling */

#endif
