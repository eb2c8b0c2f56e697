/* SPDX-License-Identifier: Apache-2.0 */
/* What each thread did in the last pass, instruction by instruction. Off, it costs one comparison per instruction. */
#ifndef INGOT_PROFILE_H
#define INGOT_PROFILE_H

#include <stdint.h>

/* One thread and instruction; seconds of the steady clock. The barrier that completes an instruction counts as its own,
 * although the next instruction is the one that asks for it. */
typedef struct ingot_profile_mark {
    double begin, end, wait;
    uint32_t barriers;
} ingot_profile_mark;

struct ingot_session;

typedef struct ingot_profile {
    double start;
    uint32_t threads, limit, m, selected, position; /* of the pass */
    ingot_profile_mark marks[];                     /* (most threads of the session, instructions) */
} ingot_profile;

/** Before a pass, if the session has a profile. */
void ingot_profile_start(struct ingot_session *session, uint32_t threads);

#endif
