/* Registration and lookup. The list only grows, at its end, under a lock; an entry that was found may be read
 * without. */
#define _POSIX_C_SOURCE 200809L

#include "factory/registry.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "config/validation.h"
#include "core/text.h"
#include "factory/builtin.h"

#define LONGEST_NAME 63

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static da_entry *first_entry;

/* Built-in implementations go through da_register_implementation as any other; this lock lets one thread do it, and the
 * flag tells da_register_implementation, called from there, that it need not wait for them. */
static pthread_mutex_t built_in_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t built_ins_registered;
static _Thread_local bool registering_built_ins;

/* Fails only where memory is short, and can then be called again. */
static da_status register_built_ins(void) {
    if (registering_built_ins) {
        return DA_OK;
    }
    da_status status = DA_OK;
    pthread_mutex_lock(&built_in_lock);
    registering_built_ins = true;
    while (status == DA_OK && built_ins_registered < DA_BUILT_IN_COUNT) {
        status = da_register_implementation(da_built_ins[built_ins_registered]);
        built_ins_registered += status == DA_OK;
    }
    registering_built_ins = false;
    pthread_mutex_unlock(&built_in_lock);
    return status;
}

/* Names separated by commas, as long as the buffer has room. */
typedef struct name_list {
    char *text;
    size_t size, length;
} name_list;

static void add_name(name_list *list, const char *name) {
    int written =
        snprintf(list->text + list->length, list->size - list->length, "%s%s", list->length ? ", " : "", name);
    size_t left = list->size - list->length - 1;
    list->length += written < 0 ? 0 : (size_t)written < left ? (size_t)written : left;
}

static void list_features(uint32_t features, char *text, size_t size) {
    static const char *const names[] = {
        "causal",
        "window",
        "key padding (key_lengths, key_mask)",
        "grouped queries (fewer key heads than query heads)",
        "lse",
        "mixing head_groups",
        "offset_rule block",
        "tail_rule zero_pad",
        "overlap once",
        "dropout",
        "query range",
    };
    name_list list = {text, size, 0};
    text[0] = '\0';
    for (size_t bit = 0; bit < sizeof names / sizeof *names; bit++) {
        if (features >> bit & 1) {
            add_name(&list, names[bit]);
        }
    }
}

static void list_dtypes(uint32_t dtypes, char *text, size_t size) {
    static const da_dtype all[] = {DA_F32, DA_F64, DA_BF16, DA_F16};
    name_list list = {text, size, 0};
    snprintf(text, size, "none");
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        if (dtypes & DA_DTYPE_BIT(all[k])) {
            add_name(&list, da_dtype_name(all[k]));
        }
    }
}

bool da_entry_takes(const da_entry *entry, da_dtype dtype, uint32_t features, char reason[DA_REASON_SIZE]) {
    char names[DA_REASON_SIZE - 48];
    uint32_t wanted = dtype == DA_DTYPE_ANY ? DA_DTYPE_BITS_ALL : DA_DTYPE_BIT(dtype);
    reason[0] = '\0';
    if (!(entry->table.dtypes & wanted)) {
        list_dtypes(entry->table.dtypes, names, sizeof names);
        snprintf(reason, DA_REASON_SIZE, "does not take data type %s; allowed: %s", da_dtype_name(dtype), names);
        return false;
    }
    if (features & ~entry->table.features) {
        list_features(features & ~entry->table.features, names, sizeof names);
        snprintf(reason, DA_REASON_SIZE, "does not take %s", names);
        return false;
    }
    return true;
}

bool da_entry_available(const da_entry *entry, const da_context *context, char reason[DA_REASON_SIZE]) {
    reason[0] = '\0';
    bool available =
        !entry->table.available || entry->table.available(context, reason, DA_REASON_SIZE, entry->table.user);
    if (available) {
        reason[0] = '\0';
    } else if (reason[0] == '\0') {
        snprintf(reason, DA_REASON_SIZE, "it says that it cannot run here, and not why");
    }
    return available;
}

/* Where the entry of that name hangs, or where one would; called under the lock. */
static da_entry **find_link(const char *name) {
    da_entry **link = &first_entry;
    while (*link && strcmp((*link)->table.name, name) != 0) {
        link = &(*link)->next;
    }
    return link;
}

static da_status report_unknown(const char *name) {
    da_text names = {.allocator = NULL};
    pthread_mutex_lock(&list_lock);
    for (const da_entry *entry = first_entry; entry; entry = entry->next) {
        da_text_append(&names, "%s%s", entry == first_entry ? "" : ", ", entry->table.name);
    }
    pthread_mutex_unlock(&list_lock);
    da_status status = da_report(DA_ERROR_UNKNOWN_IMPLEMENTATION, "implementation name is \"%.80s\"; allowed: %s", name,
                                 names.data ? names.data : "the names that da_implementation_name() lists");
    da_text_free(&names);
    return status;
}

da_status da_registry_find(const char *name, const da_entry **out) {
    *out = NULL;
    da_status status = register_built_ins();
    if (status != DA_OK) {
        return status;
    }
    pthread_mutex_lock(&list_lock);
    *out = *find_link(name);
    pthread_mutex_unlock(&list_lock);
    return *out ? DA_OK : report_unknown(name);
}

static da_status check_name(const char *name) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    if (!name) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "implementation.name is NULL; allowed: 1 to %d characters",
                         LONGEST_NAME);
    }
    size_t length = strlen(name);
    if (length == 0 || length > LONGEST_NAME || strspn(name, allowed) != length) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "implementation.name is \"%.80s\"; allowed: 1 to %d letters, digits, '_' and '-'", name,
                         LONGEST_NAME);
    }
    if (strcmp(name, "auto") == 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "implementation.name is \"auto\"; allowed: another name, since \"auto\" is the rule for "
                         "choosing one");
    }
    return DA_OK;
}

static da_status check_implementation(const da_implementation *table) {
    da_status status = check_name(table->name);
    if (status != DA_OK) {
        return status;
    }
    if (!table->forward) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "implementation.forward is NULL; allowed: a function");
    }
    const uint32_t known = DA_FEATURE_ALL | DA_FEATURE_PARTS;
    if (table->features & ~known) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "implementation.features is 0x%x; allowed: bits of 0x%x",
                         (unsigned)table->features, (unsigned)known);
    }
    if (table->dtypes & ~DA_DTYPE_BITS_ALL) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "implementation.dtypes is 0x%x; allowed: bits of 0x%x",
                         (unsigned)table->dtypes, (unsigned)DA_DTYPE_BITS_ALL);
    }
    return DA_OK;
}

/* One block of memory: the entry, then its strings. NULL, with a message, if memory is short. */
static da_entry *copy_entry(const da_implementation *table) {
    const char *from[4] = {table->name, table->description, table->best_for, table->memory};
    size_t sizes[4], total = sizeof(da_entry);
    for (int k = 0; k < 4; k++) {
        from[k] = from[k] ? from[k] : "";
        sizes[k] = strlen(from[k]) + 1;
        total += sizes[k];
    }
    da_entry *entry = da_allocate(NULL, total, 1);
    if (!entry) {
        return NULL;
    }
    *entry = (da_entry){.table = *table, .built_in = registering_built_ins};
    const char **to[4] = {&entry->table.name, &entry->table.description, &entry->table.best_for, &entry->table.memory};
    char *string = (char *)(entry + 1);
    for (int k = 0; k < 4; k++) {
        *to[k] = memcpy(string, from[k], sizes[k]);
        string += sizes[k];
    }
    return entry;
}

da_status da_register_implementation(const da_implementation *implementation) {
    da_implementation table;
    da_status status = da_copy_sized(&table, sizeof table, implementation, "implementation");
    if (status == DA_OK) {
        status = check_implementation(&table);
    }
    if (status == DA_OK) {
        status = register_built_ins();
    }
    if (status != DA_OK) {
        return status;
    }
    da_entry *entry = copy_entry(&table);
    if (!entry) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&list_lock);
    da_entry **link = find_link(table.name);
    bool taken = *link != NULL;
    if (!taken) {
        *link = entry;
    }
    pthread_mutex_unlock(&list_lock);
    if (taken) {
        da_release(NULL, entry);
        return da_report(DA_ERROR_ALREADY_REGISTERED,
                         "implementation.name is \"%s\", which is registered; allowed: a name of its own", table.name);
    }
    return DA_OK;
}

size_t da_implementation_count(void) {
    register_built_ins();
    size_t count = 0;
    pthread_mutex_lock(&list_lock);
    for (const da_entry *entry = first_entry; entry; entry = entry->next) {
        count++;
    }
    pthread_mutex_unlock(&list_lock);
    return count;
}

const char *da_implementation_name(size_t index) {
    register_built_ins();
    pthread_mutex_lock(&list_lock);
    const da_entry *entry = first_entry;
    while (entry && index > 0) {
        entry = entry->next;
        index--;
    }
    pthread_mutex_unlock(&list_lock);
    return entry ? entry->table.name : NULL;
}

void da_implementation_info_init(da_implementation_info *info) {
    if (info) {
        *info = (da_implementation_info){.size = sizeof *info};
    }
}

da_status da_implementation_get_info(const da_context *context, const char *name, da_implementation_info *info) {
    da_implementation_info ours;
    if (!context || !name) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", context ? "name" : "context",
                         context ? "a registered name" : "a context");
    }
    da_status status = da_copy_sized(&ours, sizeof ours, info, "info");
    if (status != DA_OK) {
        return status;
    }
    const da_entry *entry;
    status = da_registry_find(name, &entry);
    if (status != DA_OK) {
        return status;
    }
    info->name = entry->table.name;
    info->description = entry->table.description;
    info->best_for = entry->table.best_for;
    info->memory = entry->table.memory;
    info->features = entry->table.features;
    info->dtypes = entry->table.dtypes;
    info->built_in = entry->built_in;
    info->backward = entry->table.backward != NULL;
    info->available = da_entry_available(entry, context, info->reason);
    return DA_OK;
}
