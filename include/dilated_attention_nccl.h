/* dilated_attention_nccl.h - ranks of dilated_attention.h that exchange messages over NCCL, from GPU to GPU. A library of its
 * own, dilated_attention_nccl. The library computes on the CPU: each message is copied to its GPU, sent, and copied back.
 * That pays where GPUs have a faster network than the machines' processors.
 *
 * NCCL matches messages by their order and not by tags, and runs those of one stream one after the other. So this da_comm
 * asks more of its user than others do; the library itself keeps to it: messages are begun in phases, the same phases on all
 * ranks. A phase is what is begun until one of its messages is first waited for or looked at, and each message is sent and
 * received in the same phase.
 */
#ifndef DILATED_ATTENTION_NCCL_H
#define DILATED_ATTENTION_NCCL_H

#include <nccl.h>

#include "dilated_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the da_comm of this process, or thread, in `communicator`, which all its ranks call together. The communicator is
 * split (NCCL 2.18 or later) into one of the same ranks that does not block. timeout: seconds that a rank waits for another
 * before it gives up; NCCL then aborts this rank's part, and tells the others where it can. Free it by da_comm_nccl_free.
 * Errors: DA_ERROR_INVALID_ARGUMENT (out; timeout; communicator is NULL), DA_ERROR_COMMUNICATION (NCCL or CUDA could not, or
 * not in time), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_comm_nccl_create(ncclComm_t communicator, double timeout, da_comm *out);

/* Frees what da_comm_nccl_create made, with no context using it any more, and leaves what da_comm_init leaves; NULL is
 * allowed. All ranks call it. */
DA_API void da_comm_nccl_free(da_comm *comm);

#ifdef __cplusplus
}
#endif

#endif
