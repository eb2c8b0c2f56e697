/* SPDX-License-Identifier: Apache-2.0 */
/* A fixed set of threads that run one function together, phase by phase.
 *
 * ingot_pool_run() makes `threads` of them call `function(argument, thread)`; thread 0 is the caller. Inside it they
 * share work with ingot_pool_take() and meet at ingot_pool_barrier(). Waiting spins first, then yields, then sleeps; who
 * is not part of a run sleeps at once (kernel study, section 3.3).
 *
 * Oversubscription: a thread that waits long looks at the CPU clock of the one it waits for. If that clock stands, the
 * other was preempted; after two such stalls close together the runs do with one thread less for a while, because one
 * thread that waits for no one is faster than two that lose a time slice at every barrier. */
#ifndef INGOT_POOL_H
#define INGOT_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "ingot.h"

#define INGOT_MAX_THREADS 64

typedef struct ingot_pool ingot_pool;
typedef void (*ingot_pool_fn)(void *argument, uint32_t thread);

/** Starts threads - 1 workers, 1 to INGOT_MAX_THREADS in all.
 * @param place CPUs that the workers may use, as ingot_platform_pin() takes them; NULL: any. The caller, thread 0, stays
 *              where its owner put it.
 * @param words of place, at most 4. @return INGOT_ERROR_THREADS, _OUT_OF_MEMORY. */
ingot_status ingot_pool_create(uint32_t threads, const uint64_t *place, uint32_t words, ingot_pool **pool);
void ingot_pool_destroy(ingot_pool *pool);
/** Threads of the run in work, or of the last. */
uint32_t ingot_pool_threads(const ingot_pool *pool);
/** Forgets the workers without joining them: for a forked child, which has none. */
void ingot_pool_abandon(ingot_pool *pool);

/** @param threads 1 to those of the pool; fewer take part while the machine is oversubscribed. */
void ingot_pool_run(ingot_pool *pool, uint32_t threads, ingot_pool_fn function, void *argument);
/** Waits for all threads and starts the next phase: its items are 0 .. whatever take() is asked for. */
void ingot_pool_barrier(ingot_pool *pool, uint32_t thread);
/** Takes a run of items of this phase: at least `grain`, more while many are left. False when none is left. */
bool ingot_pool_take(ingot_pool *pool, uint32_t items, uint32_t grain, uint32_t *begin, uint32_t *end);
/** Asks all threads to stop; they see it after their next barrier. Cleared by ingot_pool_run. */
void ingot_pool_request_stop(ingot_pool *pool);
/** The same answer on every thread between two barriers. */
bool ingot_pool_stopped(const ingot_pool *pool);
/** Waits that ended with the other thread found preempted, since the pool was made. */
uint32_t ingot_pool_stalls(const ingot_pool *pool);

/** For measurements: waits by spinning alone and never drops a thread, the policy that a busy machine punishes. */
void ingot_pool_plant_spin(ingot_pool *pool);

#endif
