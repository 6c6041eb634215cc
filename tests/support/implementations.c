#include "support/implementations.h"

#include <stdlib.h>

#include "dilated_attention.h"

bool implementation_has_backward(const char *name) {
    da_context *context = NULL;
    da_implementation_info info;
    da_implementation_info_init(&info);
    if (da_context_create(NULL, &context) != DA_OK || da_implementation_get_info(context, name, &info) != DA_OK) {
        abort();
    }
    da_context_free(context);
    return info.backward;
}
