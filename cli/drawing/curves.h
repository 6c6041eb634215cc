/* Logs of trainings as curves: bits a byte, of the steps (thin) and of the validation (strong), over tokens. */
#ifndef DA_CLI_DRAWING_CURVES_H
#define DA_CLI_DRAWING_CURVES_H

#include "drawing/picture.h"
#include "train_log.h"

#define CURVES_MAX 6

typedef struct curves {
    size_t count; /* 1 .. CURVES_MAX */
    train_log logs[CURVES_MAX];
    const char *names[CURVES_MAX];
} curves;

picture_painter curves_paint; /* user: curves */

#endif
