/* SPDX-License-Identifier: Apache-2.0 */
#include "core/crew.h"

/* Seconds. Two stalls within a window are a competitor, one is an accident; in a trial one is enough. */
static const double WINDOW = 0.05, FIRST_HOLD = 0.1, LONGEST_HOLD = 0.8, TRIAL = 0.05;

static void drop_one(ingot_crew *crew, uint32_t wanted, double now) {
    crew->hold = now < crew->trial_end ? 2.0 * crew->hold : FIRST_HOLD;
    crew->hold = crew->hold > LONGEST_HOLD ? LONGEST_HOLD : crew->hold;
    crew->next_trial = now + crew->hold;
    crew->trial_end = 0.0;
    crew->strikes = 0;
    crew->dropped += crew->dropped + 1 < wanted ? 1 : 0;
}

static void try_one_more(ingot_crew *crew, double now) {
    crew->dropped--;
    crew->trial_end = crew->next_trial = now + TRIAL;
}

uint32_t ingot_crew_size(ingot_crew *crew, uint32_t wanted, uint32_t stalls, double now) {
    const uint32_t fresh = stalls - crew->seen;
    crew->seen = stalls;
    if (fresh > 0) {
        crew->strikes = now - crew->last_stall < WINDOW ? crew->strikes + fresh : fresh;
        crew->last_stall = now;
        if (crew->strikes >= 2 || now < crew->trial_end) {
            drop_one(crew, wanted, now);
        }
    } else if (crew->dropped > 0 && now >= crew->next_trial) {
        try_one_more(crew, now);
    }
    return crew->dropped < wanted ? wanted - crew->dropped : 1;
}
