/* The list of registered implementations, and what an entry can do. Entries are never changed, moved or freed. */
#ifndef DA_FACTORY_REGISTRY_H
#define DA_FACTORY_REGISTRY_H

#include "dilated_attention.h"

#define DA_REASON_SIZE (sizeof((da_implementation_info *)0)->reason)

typedef struct da_entry {
    da_implementation table; /* its strings are copies, none NULL */
    bool built_in;
    struct da_entry *next;
} da_entry;

/* The entry of a name. Errors: DA_ERROR_UNKNOWN_IMPLEMENTATION (the message lists the registered names),
 * DA_ERROR_OUT_OF_MEMORY (the first use of the registry, which enters the built-in implementations). */
da_status da_registry_find(const char *name, const da_entry **out);

/* Can it run in this context? If not, why; otherwise reason is "". */
bool da_entry_available(const da_entry *entry, const da_context *context, char reason[DA_REASON_SIZE]);

/* Does it take the data type (DA_DTYPE_ANY: at least one) and the DA_FEATURE_* bits? If not, reason says what it lacks,
 * as "does not take window, key padding"; otherwise reason is "". */
bool da_entry_takes(const da_entry *entry, da_dtype dtype, uint32_t features, char reason[DA_REASON_SIZE]);

#endif
