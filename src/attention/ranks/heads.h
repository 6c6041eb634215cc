/* The heads, in place of the tokens, are divided among ranks: every rank sends each other one its tokens of that one's
 * heads, computes its heads over the whole sequence as one process would, and sends the results back (the all-to-all of
 * DeepSpeed-Ulysses, arXiv:2309.14509), some heads after the others. What travels does not depend on the patterns; every
 * rank does as much work, causal or not, where the key heads divide evenly. */
#ifndef DA_ATTENTION_RANKS_HEADS_H
#define DA_ATTENTION_RANKS_HEADS_H

#include "attention/ranks/meeting.h"
#include "planner/traffic.h"

/* Key heads first..end-1, with the query heads that read them, are a rank's. */
void da_heads_of_rank(int64_t kv_heads, int ranks, int rank, int64_t *first, int64_t *end);

/* They are computed in turns, as many on every rank: while those of one are, the inputs of the next and the results of the
 * last travel. */
int da_heads_turns(int64_t kv_heads, int ranks);
void da_heads_of_turn(int64_t kv_heads, int ranks, int rank, int turn, int64_t *first, int64_t *end);

/* The sizes of a turn of a rank, for a problem of the whole sequence: with a logsumexp in f64 and, backward, all gradients. */
typedef struct da_heads_sizes {
    da_exchange inputs, outputs;          /* the messages of both exchanges */
    double tensors;                       /* bytes of the tensors of this rank's heads */
    double inputs_memory, outputs_memory; /* of each exchange */
    double own_inputs, own_outputs;       /* through which goes what stays with this rank, while that is copied */
} da_heads_sizes;

da_heads_sizes da_heads_size(const da_layout *layout, const da_problem *problem, da_pass pass, int rank, int turn);

da_status da_heads_forward(const da_meeting *meeting, const da_forward_call *call);
da_status da_heads_backward(const da_meeting *meeting, const da_backward_call *call);

#endif
