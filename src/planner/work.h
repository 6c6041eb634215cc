/* How much work a forward call is, counted in the parts whose times are known (calibrate.h): the schedule is gone through
 * as the implementation would, with rows padded to tiles and keys to panels, but nothing is computed. */
#ifndef DA_PLANNER_WORK_H
#define DA_PLANNER_WORK_H

#include "attention/improved/improved.h"
#include "pattern/pattern.h"

typedef enum da_work_kind {
    DA_WORK_SPANS,       /* spans begun */
    DA_WORK_ROWS,        /* queries packed and finished */
    DA_WORK_KEYS,        /* keys gathered and packed */
    DA_WORK_CLASS_KEYS,  /* keys of a block looked at for one class */
    DA_WORK_TILE_BLOCKS, /* query tiles taken against a block of keys */
    DA_WORK_TILE_PANELS, /* ... against a panel of keys; for `standard`, pairs */
    DA_WORK_FAR_TILES,   /* tile blocks of units that do not fit into the second-level cache */
    DA_WORK_MASKED,      /* tile panels of which some pairs are hidden */
    DA_WORK_MEMORY,      /* bytes of workspace, all threads together */
    DA_WORK_KINDS
} da_work_kind;

typedef struct da_work {
    double amount[DA_WORK_KINDS];
} da_work;

#define DA_WORK_SAMPLES 96

/* The work of a call, unit by unit; of many heads and units, a sample spread over them. */
typedef struct da_work_list {
    int64_t sequences, units; /* units per sequence */
    int threads;              /* that the call uses */
    size_t memory;            /* bytes of workspace */
    int heads_seen, units_seen;
    da_work seen[DA_WORK_SAMPLES]; /* [heads_seen][units_seen] */
} da_work_list;

/* The implementation whose work counts: for `ring`, which computes as `improved` where it has no blocks, that one; otherwise
 * the implementation itself. */
const da_implementation *da_work_model(const da_implementation *implementation);

/* Counts the work of a problem of known length. False if there is no model of the implementation. */
bool da_work_count(const da_context *context, const da_implementation *implementation,
                   const da_attention_config *config, const da_problem *problem, da_work_list *list);

/* Do a unit's queries and accumulators go beyond the second-level cache? */
bool da_work_is_far(const da_context *context, const da_improved_cut *cut);

/* Which of the samples stands for a unit of a head. */
const da_work *da_work_of_unit(const da_work_list *list, int64_t head, int64_t heads, int64_t unit);

/* Spans of a unit that are gone through; where it has more, they stand for all. */
#define DA_WORK_MAX_SPANS 16

/* Adds one unit of an implementation: the queries first..end-1. */
void da_work_add_improved(const da_head_patterns *patterns, const da_improved_cut *cut, int64_t first, int64_t end,
                          da_work *work);
void da_work_add_standard(const da_head_patterns *patterns, int64_t first, int64_t end, da_work *work);

#endif
