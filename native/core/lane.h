/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's way through the program: what it shares, what it does alone, where it waits for the others.
 *
 * An op is one or more phases: a serial phase is done by thread 0, a shared phase by all who take items of it. The stage
 * remembers what the last phase was, so that a barrier stands only where the next phase needs one: never between two
 * serial phases. */
#ifndef INGOT_LANE_H
#define INGOT_LANE_H

#include "core/session.h"

typedef enum ingot_stage_kind { INGOT_STAGE_CLEAN, INGOT_STAGE_SERIAL, INGOT_STAGE_SHARED } ingot_stage_kind;

/* One thread's view of the pass. */
typedef struct ingot_lane {
    ingot_session *session;
    const ingot_thread_area *area;
    uint32_t thread;
    ingot_stage_kind stage;
    ingot_profile_mark *mark;   /* of the instruction in work; NULL without a profile */
    ingot_profile_mark *writer; /* of the one that wrote since the last barrier */
} ingot_lane;

/** Before work that every thread reads or shares: waits if anything was written since the last barrier. */
void ingot_lane_synchronize(ingot_lane *lane);
/** Starts a shared phase: take items with ingot_lane_take until it is false. */
void ingot_lane_share(ingot_lane *lane);
bool ingot_lane_take(const ingot_lane *lane, uint32_t items, uint32_t grain, uint32_t *begin, uint32_t *end);
/** Items of a linear that a thread takes at least. */
uint32_t ingot_lane_grain(const ingot_lane *lane, uint32_t m);
/** Starts a serial phase. @return whether this thread does it. */
bool ingot_lane_serial(ingot_lane *lane);

/** Rows of an activation in this pass. */
uint32_t ingot_row_count(const ingot_session *session, uint32_t tensor);
float *ingot_row(const ingot_session *session, uint32_t tensor, uint32_t row);
const float *ingot_constant(const ingot_session *session, uint32_t tensor);

#endif
