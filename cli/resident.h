/* Resident memory of this process, as the system counts it. */
#ifndef DA_CLI_RESIDENT_H
#define DA_CLI_RESIDENT_H

#include <stddef.h>

/* Bytes that are resident, and the most that have been; 0: the system does not say. Pages of mapped files count. */
size_t resident_now(void);
size_t resident_peak(void);

#endif
