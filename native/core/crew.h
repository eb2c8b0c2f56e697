/* SPDX-License-Identifier: Apache-2.0 */
/* How many threads the next run gets: fewer for a while after stalls, then one more on trial. No clock of its own, so
 * that a test can feed it any history. */
#ifndef INGOT_CREW_H
#define INGOT_CREW_H

#include <stdint.h>

typedef struct ingot_crew {
    uint32_t dropped;   /* threads that sit out */
    uint32_t seen;      /* stalls counted so far */
    uint32_t strikes;   /* stalls of late */
    double last_stall;  /* seconds */
    double next_trial;  /* seconds: when one more is tried */
    double trial_end;   /* seconds */
    double hold;        /* seconds of the present rest; doubles while trials fail */
} ingot_crew;

/** @param wanted threads asked for, at least 1.
 *  @param stalls all stalls of the pool so far.
 *  @param now seconds of any steady clock. @return 1 to wanted. */
uint32_t ingot_crew_size(ingot_crew *crew, uint32_t wanted, uint32_t stalls, double now);

#endif
