/* SPDX-License-Identifier: Apache-2.0 */
/* The pool alone: runs of changing size, the crew's history, workers that sleep.
 *
 *   threads_driver [--plant lost|history]
 *
 * One line per check, exit 1 on the first that fails; --plant shows that it can. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/crew.h"
#include "core/pool.h"
#include "platform/platform.h"

enum { THREADS = 4, RUNS = 400, PHASES = 5, ITEMS = 37 };

typedef struct job {
    ingot_pool *pool;
    _Atomic uint32_t seen;   /* bit per thread that took part */
    uint32_t items[ITEMS];   /* how often each was done; written by whoever took it */
    uint32_t stalls; /* that thread 0 notes in its first phase */
    uint32_t lost;           /* an item that nobody does */
} job;

static int fail(const char *check, const char *why) {
    printf("FAIL %s: %s\n", check, why);
    return 1;
}

static void work(void *argument, uint32_t thread) {
    job *self = argument;
    atomic_fetch_or(&self->seen, 1u << thread);
    for (uint32_t stall = 0; thread == 0 && stall < self->stalls; stall++) {
        ingot_pool_note_stall(self->pool);
    }
    for (uint32_t phase = 0; phase < PHASES; phase++) {
        uint32_t begin, end;
        while (ingot_pool_take(self->pool, ITEMS, 1 + phase, &begin, &end)) {
            for (uint32_t item = begin; item < end; item++) {
                self->items[item] += item == self->lost ? 0 : 1;
            }
        }
        if (ingot_pool_leaves(self->pool, thread)) {
            ingot_pool_leave(self->pool, thread);
            return;
        }
        if (phase + 1 < PHASES) {
            ingot_pool_barrier(self->pool, thread);
        }
    }
}

static int check_runs(int planted) {
    ingot_pool *pool = NULL;
    if (ingot_pool_create(THREADS, NULL, 0, &pool) != INGOT_OK) {
        return fail("runs", ingot_last_error());
    }
    for (uint32_t run = 0; run < RUNS; run++) {
        job task = {.pool = pool, .lost = planted ? 3 : ITEMS};
        const uint32_t threads = 1 + run % THREADS;
        ingot_pool_run(pool, threads, work, &task);
        const uint32_t active = ingot_pool_threads(pool);
        if (active > threads || task.seen >= 1u << threads ||
            (task.seen & ((1u << active) - 1)) != (1u << active) - 1) {
            return fail("runs", "another number of threads took part");
        }
        for (uint32_t item = 0; item < ITEMS; item++) {
            if (task.items[item] != PHASES) {
                return fail("runs", "an item was not done once per phase");
            }
        }
    }
    ingot_pool_destroy(pool);
    printf("ok   runs of 1 to %d threads do each item once\n", THREADS);
    return 0;
}

/* Two stalls within a run send its last thread away, once; the work is done all the same. */
static int check_leaving(void) {
    for (uint32_t run = 0; run < RUNS; run++) {
        ingot_pool *pool = NULL;
        if (ingot_pool_create(THREADS, NULL, 0, &pool) != INGOT_OK) {
            return fail("leaving", ingot_last_error());
        }
        job task = {.pool = pool, .lost = ITEMS, .stalls = 2};
        ingot_pool_run(pool, THREADS, work, &task);
        const uint32_t left = ingot_pool_threads(pool);
        for (uint32_t item = 0; item < ITEMS; item++) {
            if (task.items[item] != PHASES) {
                return fail("leaving", "an item was not done once per phase");
            }
        }
        ingot_pool_destroy(pool);
        if (left >= THREADS) {
            return fail("leaving", "no thread left");
        }
    }
    printf("ok   a preempted thread leaves the run\n");
    return 0;
}

/* What happens at a time, and how many threads the crew must then give of four. */
typedef struct moment {
    double now;
    uint32_t stalls, expected;
} moment;

static int check_crew(int planted) {
    const moment history[] = {
        {1.00, 0, 4},  {1.01, 1, 4},                             /* one stall is an accident */
        {2.00, 2, 4},  {2.02, 3, 3},                             /* two close together are not */
        {2.05, 3, 3},  {2.13, 3, 4},                             /* after 100 ms one more is tried */
        {2.15, 4, 3},  {2.30, 4, 3},  {2.36, 4, 4},               /* a failed trial doubles the rest */
        {2.37, 5, 3},  {2.39, 7, 2},  {2.40, 9, 1},  {2.41, 11, 1}, /* never below one */
        {9.00, 11, 2}, {9.01, 11, 2}, {9.06, 11, 3}, {9.20, 11, 4}, {9.90, 11, 4},
    };
    ingot_crew crew = {0};
    for (size_t index = 0; index < sizeof history / sizeof *history; index++) {
        uint32_t found = ingot_crew_size(&crew, 4, history[index].stalls, history[index].now);
        if (found != history[index].expected + (planted && index == 3 ? 1 : 0)) {
            printf("at %.2f: %u threads, expected %u\n", history[index].now, found, history[index].expected);
            return fail("crew", "the history leads elsewhere");
        }
    }
    printf("ok   crew shrinks after two stalls and comes back\n");
    return 0;
}

/* A worker that sat out must not take CPU time. */
static int check_idle_once(double *taken) {
    ingot_pool *pool = NULL;
    if (ingot_pool_create(THREADS, NULL, 0, &pool) != INGOT_OK) {
        return fail("idle", ingot_last_error());
    }
    job task = {.pool = pool, .lost = ITEMS};
    ingot_pool_run(pool, THREADS, work, &task);
    ingot_pool_run(pool, 1, work, &task);
    double start = ingot_platform_seconds(), own = ingot_platform_clock_seconds(ingot_platform_thread_clock());
    double all = ingot_platform_process_seconds();
    while (ingot_platform_seconds() < start + 0.1) {
    }
    own = ingot_platform_clock_seconds(ingot_platform_thread_clock()) - own;
    all = ingot_platform_process_seconds() - all;
    ingot_pool_destroy(pool);
    *taken = all - own;
    return 0;
}

/* Five times: a pause of the machine is charged to whoever was about to sleep. One that spins does so each time. */
static int check_idle(void) {
    double taken = 0;
    for (int i = 0; i < 5; i++) {
        if (check_idle_once(&taken) != 0) {
            return 1;
        }
        if (taken <= 0.02) {
            printf("ok   workers that sit out sleep\n");
            return 0;
        }
    }
    printf("workers took %.3f of 0.1 s\n", taken);
    return fail("idle", "workers without work took CPU time");
}

int main(int count, char **arguments) {
    const char *planted = count > 2 && strcmp(arguments[1], "--plant") == 0 ? arguments[2] : "";
    int failed = check_runs(strcmp(planted, "lost") == 0);
    failed = failed || check_crew(strcmp(planted, "history") == 0);
    failed = failed || check_leaving();
    return failed || check_idle();
}
