/* The passes of `improved`, as da_implementation has them, and by scopes (attention/scope.h), which `ring` and `distributed`
 * take. */
#ifndef DA_ATTENTION_PASSES_H
#define DA_ATTENTION_PASSES_H

#include "attention/scope.h"

da_status da_improved_forward(void *state, const da_forward_call *call, void *user);
size_t da_improved_workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                             void *user);

da_status da_improved_backward(void *state, const da_backward_call *call, void *user);
size_t da_improved_backward_workspace(const da_context *context, const da_attention_config *config,
                                      const da_problem *problem, void *user);

/* ---- heads: the call's tensors hold some of them ----------------------------------------------------------------- */

da_status da_improved_forward_heads(const da_forward_call *call, const da_head_range *heads);
da_status da_improved_backward_heads(const da_backward_call *call, const da_head_range *heads);

/* ---- tiles: of all pairs those in tiles count; the call's tensors are whole --------------------------------------- */

/* transposed: its rows are blocks of keys. full: as da_scope has it. */
da_status da_improved_forward_tiles(const da_forward_call *call, const da_tiles *tiles, const bool *full);
da_status da_improved_backward_tiles(const da_backward_call *call, const da_tiles *tiles, const da_tiles *transposed,
                                     const bool *full);

/* Bytes of their workspace, all threads together, for blocks of so many tokens. */
size_t da_improved_tiles_workspace(const da_context *context, const da_attention_config *config,
                                   const da_problem *problem, int64_t tile_block);
size_t da_improved_tiles_backward_workspace(const da_context *context, const da_attention_config *config,
                                            const da_problem *problem, int64_t tile_block);

/* ---- by scopes: the call's tensors hold the rows of scope->rows -------------------------------------------------- */

/* Rows are queries, columns keys with their values. */
da_status da_improved_forward_scope(const da_forward_call *call, const da_scope *scope);

/* Bytes of a scope's carry, for a problem whose n is the length of scope->rows. */
size_t da_improved_forward_carry(const da_context *context, bool drops, const da_problem *problem);

/* Either grad_query (rows are queries, columns keys with their values), the others being NULL, or grad_key and grad_value
 * (rows are keys, columns queries with their grad_out) without grad_query. */
da_status da_improved_backward_scope(const da_backward_call *call, const da_scope *scope);

/* Bytes of its workspace, all threads together, for a problem whose n is the length of scope->rows; keys: the rows are
 * keys. */
size_t da_improved_backward_scope_workspace(const da_context *context, const da_attention_config *config,
                                            const da_problem *problem, bool keys);

/* Bytes of a scope's carry for one gradient of `heads` heads; for grad_key and grad_value twice that. */
size_t da_improved_backward_carry(const da_context *context, bool drops, const da_problem *problem, int64_t heads);

/* What columns that are queries take along (da_source.terms). */
void da_improved_query_terms(const da_backward_call *call, int64_t batch, int64_t row, int64_t head, double terms[2]);

#endif
