#include "progress.h"

#include <stdio.h>
#include <unistd.h>

#include "clock.h"

#define BAR_WIDTH 30
#define SECONDS_BETWEEN_DRAWINGS 0.1

progress progress_start(const char *label, bool wanted) {
    return (progress){.shown = wanted && isatty(STDERR_FILENO) == 1, .start = cli_now(), .label = label};
}

static const char *duration(double seconds, char text[32]) {
    long long whole = (long long)(seconds + 0.5);
    if (whole < 3600) {
        snprintf(text, 32, "%lld:%02lld", whole / 60, whole % 60);
    } else {
        snprintf(text, 32, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
    }
    return text;
}

void progress_update(progress *bar, int64_t finished, int64_t total) {
    double now = cli_now();
    if (!bar->shown || total <= 0 || now - bar->last_drawn < SECONDS_BETWEEN_DRAWINGS) {
        return;
    }
    bar->last_drawn = now;
    double part = (double)finished / (double)total, elapsed = now - bar->start;
    char drawn[BAR_WIDTH + 1], past[32], left[32];
    for (int i = 0; i < BAR_WIDTH; i++) {
        drawn[i] = i < (int)(part * BAR_WIDTH) ? '#' : '.';
    }
    drawn[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r\033[K%s [%s] %3.0f%%  %s elapsed", bar->label, drawn, 100 * part, duration(elapsed, past));
    if (finished > 0) {
        fprintf(stderr, ", %s left", duration(elapsed / part - elapsed, left));
    }
    fflush(stderr);
}

void progress_end(progress *bar) {
    if (bar->shown && bar->last_drawn > 0) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    bar->shown = false;
}
