/* SPDX-License-Identifier: Apache-2.0 */
/* Files that may vanish while they are mapped: cut short by somebody, or on storage that fails.
 *
 * Touching such a page raises SIGBUS on the thread that reads it. For a guarded mapping the handler puts a page of zeros
 * in its place and notes the loss; the thread goes on, and whoever started the work asks afterwards. Nothing is jumped
 * out of, so that threads may wait for each other at barriers meanwhile. Any other SIGBUS goes to the handler that was
 * there before. The handler is installed with the first guard and leaves with the last one. */
#ifndef INGOT_GUARD_H
#define INGOT_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "ingot.h"

typedef struct ingot_guard ingot_guard;

/** Guards a read-only mapping that begins at a page. @return INGOT_ERROR_OUT_OF_MEMORY if too many are guarded,
 * INGOT_ERROR_IO if the system takes no handler. */
ingot_status ingot_guard_add(const uint8_t *data, uint64_t size, ingot_guard **guard);
/** Whether a part of it was lost. For any thread; NULL: false. */
bool ingot_guard_lost(const ingot_guard *guard);
/** Before the mapping goes; NULL is allowed. */
void ingot_guard_remove(ingot_guard *guard);

#endif
