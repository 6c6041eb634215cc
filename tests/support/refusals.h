/* Tables of calls that must be refused. A row is a name, an expression over a fresh fixture `f` that gives a da_status,
 * the status it must give, and what the message must say. Each row becomes a cmocka test of its own:
 *
 *     #define ROWS(ROW) \
 *         ROW(threads_negative, (f->options.threads = -1, make(f)), DA_ERROR_INVALID_ARGUMENT, "threads is -1")
 *     ROWS(REFUSAL_FUNCTION)
 *     static const refusal rows[] = {ROWS(REFUSAL_ENTRY)};
 */
#ifndef DA_TESTS_REFUSALS_H
#define DA_TESTS_REFUSALS_H

#include "dilated_attention.h"

typedef struct fixture fixture; /* defined by the file that holds the table */

typedef struct refusal {
    const char *name;
    da_status (*call)(fixture *f);
    da_status status;
    const char *message;
} refusal;

#define REFUSAL_FUNCTION(id, expression, status, message)                                                              \
    static da_status id(fixture *f) {                                                                                  \
        return expression;                                                                                             \
    }
#define REFUSAL_ENTRY(id, expression, status, message) {#id, id, status, message},

/* Fails the running cmocka test unless the row is refused as it says. */
void refusal_check(const refusal *row, fixture *f);

/* Runs one cmocka test per row; `run` gets the row as its state. Returns the number of failures. */
int refusal_run(const char *group, const refusal *rows, size_t count, void (*run)(void **state));

#endif
