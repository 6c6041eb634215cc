#include "interrupt.h"

#include <signal.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

static volatile sig_atomic_t received, guarding, hasty;
static const da_tensor_writer *guarded;
static size_t guarded_count;

static void handle(int signal_number) {
    if ((received != 0 || hasty) && guarding) {
        for (size_t i = 0; i < guarded_count; i++) {
            da_tensor_writer_unlink(&guarded[i]);
        }
        _exit(128 + signal_number);
    }
    received = signal_number;
}

/* A signal that the parent chose to ignore, as nohup does, stays ignored. */
static void set_handlers(void (*handler)(int)) {
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        struct sigaction action = {.sa_handler = handler}, old;
        sigemptyset(&action.sa_mask);
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaction(signals[i], &action, NULL);
        }
    }
}

void interrupt_record(void) {
    guarding = 0;
    set_handlers(handle);
}

void interrupt_guard(const da_tensor_writer *writers, size_t count) {
    guarded = writers;
    guarded_count = count;
    guarding = 1;
}

void interrupt_at_once(void) {
    hasty = 1;
}

void interrupt_restore(void) {
    guarding = 0;
    set_handlers(SIG_DFL);
}

int interrupt_signal(void) {
    return received;
}
