/* A stand-in for NCCL and CUDA, between ranks that are threads. A stream does one thing after the other, moved on by queries;
 * a group of sends and receives ends once all of it has met its other halves; a communicator is in progress for some calls
 * after each that it was told to do. */
#ifndef DA_TESTS_MADE_UP_H
#define DA_TESTS_MADE_UP_H

#include <stdatomic.h>

#include "dilated_attention.h"
#include <nccl.h>

/* A communicator of this thread, over its da_comm. Ended by ncclCommDestroy. */
ncclComm_t made_up_communicator(const da_comm *comm);

/* Things done that the manuals forbid, or that could wait for ever: allocating or releasing memory while a stream is at work;
 * using a communicator that is in progress; groups that overlap. */
extern atomic_int made_up_offences;

/* On this thread: the call of this number (from 1) to cudaMalloc, cudaMallocHost or ncclCommSplit fails; 0: none. */
extern _Thread_local int made_up_failing_call;

#endif
