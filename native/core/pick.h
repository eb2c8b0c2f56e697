/* SPDX-License-Identifier: Apache-2.0 */
/* The head's epilogue: each thread keeps the best logits of the tiles it finishes, so that none is written. */
#ifndef INGOT_PICK_H
#define INGOT_PICK_H

#include <stdbool.h>

#include "core/session.h"

/** Whether this sampling needs but a few best logits per row, and this model's last step can keep them. */
bool ingot_pick_possible(const ingot_session *session, const ingot_sampling *config, uint32_t rows);
/** Before a pass: the passes from here on keep the k best of each selected row instead of writing logits; 0: write. */
void ingot_pick_begin(ingot_session *session, uint32_t k);
/** In a pass, thread by thread: takes `count` logits of ids from first_id on. */
void ingot_pick_take(const ingot_session *session, const ingot_thread_area *area, uint32_t row, const float *logits,
                     uint32_t first_id, uint32_t count);
/** After a pass: makes the k best of all threads the sampler's candidates, ids rising. */
void ingot_pick_collect(ingot_session *session, uint32_t row);

#endif
