/* An attention that computes by its definition, pair by pair in double, forward and backward: registered by tests as
 * "dense", so that the module is tested whatever the built-in implementations can do. It does not know zero_pad. */
#ifndef DA_TESTS_DENSE_ATTENTION_H
#define DA_TESTS_DENSE_ATTENTION_H

#include "dilated_attention.h"

da_status dense_attention_register(void);

#endif
