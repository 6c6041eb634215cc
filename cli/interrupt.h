/* SIGINT, SIGTERM and SIGHUP during a computation: the first asks it to stop and clean up, a second one removes the
 * temporary files at once and ends the process. */
#ifndef DA_CLI_INTERRUPT_H
#define DA_CLI_INTERRUPT_H

#include <stddef.h>

#include "io/tensor_file.h"

/* From now on signals are only recorded. */
void interrupt_record(void);
/* From now on a second signal removes the writers' temporary files and ends the process; interrupt_record() takes that
 * back, which must precede any change to the writers. */
void interrupt_guard(const da_tensor_writer *writers, size_t count);
/* From now on the first signal already does so: a launcher of several processes gives them little time. */
void interrupt_at_once(void);
/* Signals end the process again, as by default. */
void interrupt_restore(void);

/* The signal that asked to stop; 0: none. */
int interrupt_signal(void);

#endif
