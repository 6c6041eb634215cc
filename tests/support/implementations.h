/* What implementations can do, for tests that run over all of them. */
#ifndef DA_TESTS_IMPLEMENTATIONS_H
#define DA_TESTS_IMPLEMENTATIONS_H

#include <stdbool.h>

bool implementation_has_backward(const char *name);

#endif
