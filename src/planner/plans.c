#define _POSIX_C_SOURCE 200809L

#include "planner/plans.h"

#include <pthread.h>
#include <string.h>

#include "attention/improved/improved.h"
#include "attention/ring/ring.h"
#include "attention/standard/standard.h"
#include "core/memory.h"

struct da_plans {
    da_allocator allocator;
    pthread_mutex_t *lock; /* apart, so that a store that is only read can be const */
    da_plan_list *list;    /* sorted by key */
    pthread_mutex_t lock_memory;
    da_plan_list list_memory;
};

const char *da_plans_implementation(const char *name) {
    const da_implementation *const known[] = {&da_improved_implementation, &da_standard_implementation,
                                              &da_ring_implementation};
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        if (strcmp(known[k]->name, name) == 0) {
            return known[k]->name;
        }
    }
    return NULL;
}

/* ---- lists, sorted by key ---------------------------------------------------------------------------------------- */

/* Where the key is, or would have to be. */
static size_t place_of(const da_plan_list *list, const char *key, bool *found) {
    size_t low = 0, high = list->count;
    *found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(list->entries[middle].key, key);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static da_status reserve(da_plan_list *list, size_t count) {
    if (count <= list->capacity) {
        return DA_OK;
    }
    size_t capacity = 2 * count + 8;
    da_plan_entry *entries = da_allocate(list->allocator, capacity, sizeof *entries);
    if (!entries) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    if (list->count > 0) {
        memcpy(entries, list->entries, list->count * sizeof *entries);
    }
    da_release(list->allocator, list->entries);
    list->entries = entries;
    list->capacity = capacity;
    return DA_OK;
}

da_status da_plan_list_add(da_plan_list *list, const char *key, const da_remembered *plan) {
    bool found;
    size_t place = place_of(list, key, &found), bytes = strlen(key) + 1;
    if (found) {
        list->entries[place].plan = *plan;
        return DA_OK;
    }
    da_status status = reserve(list, list->count + 1);
    char *copy = status == DA_OK ? da_allocate(list->allocator, bytes, 1) : NULL;
    if (!copy) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memcpy(copy, key, bytes);
    memmove(list->entries + place + 1, list->entries + place, (list->count - place) * sizeof *list->entries);
    list->entries[place] = (da_plan_entry){copy, *plan};
    list->count++;
    return DA_OK;
}

int64_t da_plan_list_find(const da_plan_list *list, const char *key) {
    bool found;
    size_t place = place_of(list, key, &found);
    return found ? (int64_t)place : -1;
}

void da_plan_list_free(da_plan_list *list) {
    for (size_t k = 0; k < list->count; k++) {
        da_release(list->allocator, list->entries[k].key);
    }
    da_release(list->allocator, list->entries);
    *list = (da_plan_list){.allocator = list->allocator};
}

/* ---- the store --------------------------------------------------------------------------------------------------- */

da_status da_plans_create(const da_allocator *allocator, da_plans **out) {
    if (!out) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: a place for the plans");
    }
    *out = NULL;
    da_status status = da_check_allocator(allocator);
    if (status != DA_OK) {
        return status;
    }
    da_plans *plans = da_allocate(allocator, 1, sizeof *plans);
    if (!plans) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *plans = (da_plans){.allocator = allocator ? *allocator : (da_allocator){NULL, NULL, NULL}};
    plans->list_memory.allocator = &plans->allocator;
    plans->list = &plans->list_memory;
    plans->lock = &plans->lock_memory;
    pthread_mutex_init(plans->lock, NULL);
    *out = plans;
    return DA_OK;
}

void da_plans_free(da_plans *plans) {
    if (plans) {
        da_allocator allocator = plans->allocator;
        da_plan_list_free(plans->list);
        pthread_mutex_destroy(plans->lock);
        da_release(&allocator, plans);
    }
}

const da_allocator *da_plans_allocator(const da_plans *plans) {
    return &plans->allocator;
}

size_t da_plans_count(const da_plans *plans) {
    if (!plans) {
        return 0;
    }
    pthread_mutex_lock(plans->lock);
    size_t count = plans->list->count;
    pthread_mutex_unlock(plans->lock);
    return count;
}

bool da_plans_find(const da_context *context, const da_attention_config *config, const da_problem *problem,
                   da_remembered *out) {
    da_plan_subject subject;
    char key[DA_PLAN_KEY_SIZE];
    const da_plans *plans = da_context_plans(context);
    if (!plans) {
        return false;
    }
    da_plan_subject_of(context, config, problem, &subject);
    da_plan_key_write(&subject, key);
    pthread_mutex_lock(plans->lock);
    int64_t index = da_plan_list_find(plans->list, key);
    if (index >= 0) {
        *out = plans->list->entries[index].plan;
    }
    pthread_mutex_unlock(plans->lock);
    return index >= 0;
}

da_status da_plans_remember(da_plans *plans, const char *key, const da_remembered *plan) {
    pthread_mutex_lock(plans->lock);
    da_status status = da_plan_list_add(plans->list, key, plan);
    pthread_mutex_unlock(plans->lock);
    return status;
}

static da_status copy_list(const da_plan_list *from, da_plan_list *to) {
    da_status status = DA_OK;
    for (size_t k = 0; k < from->count && status == DA_OK; k++) {
        status = da_plan_list_add(to, from->entries[k].key, &from->entries[k].plan);
    }
    return status;
}

da_status da_plans_copy(const da_plans *plans, da_plan_list *out) {
    *out = (da_plan_list){.allocator = &plans->allocator};
    pthread_mutex_lock(plans->lock);
    da_status status = copy_list(plans->list, out);
    pthread_mutex_unlock(plans->lock);
    if (status != DA_OK) {
        da_plan_list_free(out);
    }
    return status;
}

/* The union is made apart and takes the old list's place when it is whole. */
da_status da_plans_merge(da_plans *plans, const da_plan_list *list) {
    da_plan_list both = {.allocator = &plans->allocator}, old = both;
    pthread_mutex_lock(plans->lock);
    da_status status = copy_list(plans->list, &both);
    if (status == DA_OK) {
        status = copy_list(list, &both);
    }
    if (status == DA_OK) {
        old = *plans->list;
        *plans->list = both;
    }
    pthread_mutex_unlock(plans->lock);
    da_plan_list_free(status == DA_OK ? &old : &both);
    return status;
}
