#include "support/refusals.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void refusal_check(const refusal *row, fixture *f) {
    da_status status = row->call(f);
    const char *message = da_last_error_message();
    if (status != row->status) {
        fail_msg("%s: status %s, not %s; message: %s", row->name, da_status_name(status), da_status_name(row->status),
                 message);
    }
    if (!strstr(message, row->message)) {
        fail_msg("%s: the message lacks \"%s\": %s", row->name, row->message, message);
    }
    if (status == DA_ERROR_INVALID_ARGUMENT && !strstr(message, "allowed")) {
        fail_msg("%s: the message does not say what is allowed: %s", row->name, message);
    }
}

int refusal_run(const char *group, const refusal *rows, size_t count, void (*run)(void **state)) {
    struct CMUnitTest *tests = calloc(count, sizeof *tests);
    if (!tests) {
        abort();
    }
    for (size_t row = 0; row < count; row++) {
        /* cmocka's state is not const; the rows are not written. */
        union {
            const refusal *row;
            void *state;
        } pointer = {.row = &rows[row]};
        tests[row] = (struct CMUnitTest){rows[row].name, run, NULL, NULL, pointer.state};
    }
    int failed = _cmocka_run_group_tests(group, tests, count, NULL, NULL);
    free(tests);
    return failed;
}
