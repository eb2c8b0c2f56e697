/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the program on all threads at once, instruction by instruction: every thread walks the same list. */
#ifndef INGOT_EXECUTOR_H
#define INGOT_EXECUTOR_H

#include <stdint.h>

/** ingot_pool_fn: argument is the session. */
void ingot_executor_run(void *argument, uint32_t thread);

#endif
