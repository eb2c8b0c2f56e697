/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pool.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "core/crew.h"
#include "core/error.h"
#include "platform/platform.h"

enum { SPINS_PER_LOOK = 32, LINE = 64, PLACE_WORDS = 4 };

/* Seconds. A barrier of one token is met within a few microseconds, so that spinning covers nearly all of them; yielding
 * sooner would give a whole time slice to whoever shares this CPU. */
static const double SPIN_BEFORE_YIELD = 50e-6, WATCH_AFTER = 0.5e-3, WATCH_FOR = 0.5e-3, SLEEP_AFTER = 8e-3,
                    IDLE_SPIN = 2e-3;

typedef struct worker {
    _Alignas(LINE) _Atomic uint32_t job; /* counts this worker's runs; it waits for the next */
    _Atomic uint32_t sleeps;             /* on job */
    _Atomic uint32_t arrived;            /* generation of the barrier that it has come to */
    _Atomic int64_t clock;               /* of its CPU time */
    ingot_pool *pool;
    uint32_t index;
    ingot_thread *thread;
} worker;

/* The words that threads fight over stand on lines of their own. */
struct ingot_pool {
    _Alignas(LINE) _Atomic uint32_t generation; /* of the barrier */
    _Atomic uint32_t sleepers;                  /* on generation */
    _Alignas(LINE) _Atomic uint32_t arrived;
    _Alignas(LINE) _Atomic uint32_t cursor;
    _Alignas(LINE) _Atomic uint32_t active; /* threads of this run: 0 .. active - 1 */
    _Atomic uint32_t quit;
    _Atomic uint32_t stop_requested;
    _Atomic uint32_t stalls;
    bool stopped; /* written only by the last at a barrier */
    bool spins;   /* planted */
    uint32_t threads;
    ingot_crew crew;
    uint32_t words; /* of place, 0: any CPU */
    uint64_t place[PLACE_WORDS];
    ingot_pool_fn function;
    void *argument;
    worker workers[INGOT_MAX_THREADS]; /* 0 is the caller's */
};

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` is a no-op on most cores */
#endif
}

static bool changed(_Atomic uint32_t *word, uint32_t seen) {
    for (uint32_t spin = 0; spin < SPINS_PER_LOOK; spin++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen) {
            return true;
        }
        pause_briefly();
    }
    return false;
}

/* A thread that has not come to the barrier of `generation`; the caller's own index if all have. */
static uint32_t find_laggard(const ingot_pool *pool, uint32_t self, uint32_t generation) {
    uint32_t active = atomic_load_explicit(&pool->active, memory_order_relaxed);
    for (uint32_t index = 0; index < active; index++) {
        if (index != self &&
            atomic_load_explicit(&pool->workers[index].arrived, memory_order_relaxed) != generation + 1) {
            return index;
        }
    }
    return self;
}

/* Watches the CPU clock of one laggard. True once it is found standing. */
typedef struct watch {
    uint32_t laggard;
    double since, clock;
    bool on;
} watch;

static bool finds_stall(ingot_pool *pool, watch *state, uint32_t self, uint32_t generation, double now) {
    if (!state->on) {
        state->laggard = find_laggard(pool, self, generation);
        state->clock = ingot_platform_clock_seconds(atomic_load(&pool->workers[state->laggard].clock));
        state->since = now;
        state->on = true;
        return false;
    }
    if (now - state->since < WATCH_FOR) {
        return false;
    }
    state->on = false;
    worker *other = &pool->workers[state->laggard];
    if (state->laggard == self || atomic_load_explicit(&other->arrived, memory_order_relaxed) == generation + 1) {
        return false;
    }
    double progress = ingot_platform_clock_seconds(atomic_load(&other->clock)) - state->clock;
    return progress < 0.25 * (now - state->since);
}

static void sleep_at_barrier(ingot_pool *pool, uint32_t generation) {
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->generation) == generation) {
        ingot_platform_wait(&pool->generation, generation);
    }
    atomic_fetch_sub(&pool->sleepers, 1);
}

/* A short spin, then turns for whoever else wants this CPU: that may be the very thread waited for. At last, or at once
 * where that one is found preempted, it sleeps: an idle CPU is what the system moves waiting threads to. */
static void wait_for_others(ingot_pool *pool, uint32_t self, uint32_t generation) {
    if (changed(&pool->generation, generation)) {
        return;
    }
    const double start = ingot_platform_seconds();
    watch state = {0};
    while (!changed(&pool->generation, generation)) {
        double now = ingot_platform_seconds(), waited = now - start;
        if (pool->spins || waited < SPIN_BEFORE_YIELD) {
            continue;
        }
        bool stalled = waited > WATCH_AFTER && finds_stall(pool, &state, self, generation, now);
        if (stalled) {
            atomic_fetch_add_explicit(&pool->stalls, 1, memory_order_relaxed);
        }
        if (stalled || waited > SLEEP_AFTER) {
            sleep_at_barrier(pool, generation);
            return;
        }
        ingot_platform_yield();
    }
}

static void open_phase(ingot_pool *pool) {
    atomic_store_explicit(&pool->cursor, 0, memory_order_relaxed);
    pool->stopped = atomic_load_explicit(&pool->stop_requested, memory_order_relaxed) != 0;
}

void ingot_pool_barrier(ingot_pool *pool, uint32_t thread) {
    const uint32_t active = atomic_load_explicit(&pool->active, memory_order_relaxed);
    if (active == 1) {
        open_phase(pool);
        return;
    }
    uint32_t generation = atomic_load_explicit(&pool->generation, memory_order_acquire);
    atomic_store_explicit(&pool->workers[thread].arrived, generation + 1, memory_order_relaxed);
    if (atomic_fetch_add(&pool->arrived, 1) + 1 < active) {
        wait_for_others(pool, thread, generation);
        return;
    }
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    open_phase(pool);
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleepers) != 0) {
        ingot_platform_wake_all(&pool->generation);
    }
}

bool ingot_pool_take(ingot_pool *pool, uint32_t items, uint32_t grain, uint32_t *begin, uint32_t *end) {
    const uint32_t active = atomic_load_explicit(&pool->active, memory_order_relaxed);
    uint32_t first = atomic_load_explicit(&pool->cursor, memory_order_relaxed);
    uint32_t last;
    do {
        if (first >= items) {
            return false;
        }
        uint32_t share = (items - first) / (2 * active);
        share = active == 1 ? items - first : share - share % grain;
        share = share < grain ? grain : share;
        last = items - first < share ? items : first + share;
    } while (!atomic_compare_exchange_weak_explicit(&pool->cursor, &first, last, memory_order_relaxed,
                                                    memory_order_relaxed));
    *begin = first;
    *end = last;
    return true;
}

/* Between runs: spins for the next only while it was part of the last. */
static void wait_for_job(worker *self, uint32_t seen) {
    ingot_pool *pool = self->pool;
    const double start = ingot_platform_seconds();
    while (atomic_load_explicit(&pool->active, memory_order_relaxed) > self->index) {
        if (changed(&self->job, seen)) {
            return;
        }
        double waited = ingot_platform_seconds() - start;
        if (waited > IDLE_SPIN) {
            break;
        }
        if (waited > SPIN_BEFORE_YIELD && !pool->spins) {
            ingot_platform_yield();
        }
    }
    atomic_store(&self->sleeps, 1);
    while (atomic_load(&self->job) == seen) {
        ingot_platform_wait(&self->job, seen);
    }
    atomic_store(&self->sleeps, 0);
}

static void give_job(worker *self) {
    atomic_fetch_add(&self->job, 1);
    if (atomic_load(&self->sleeps) != 0) {
        ingot_platform_wake_all(&self->job);
    }
}

static void worker_main(void *argument) {
    worker *self = argument;
    ingot_pool *pool = self->pool;
    atomic_store(&self->clock, ingot_platform_thread_clock());
    if (pool->words != 0) {
        ingot_platform_pin(pool->place, pool->words);
    }
    for (uint32_t seen = 0;; seen++) {
        wait_for_job(self, seen);
        if (atomic_load(&pool->quit) != 0) {
            return;
        }
        pool->function(pool->argument, self->index);
        ingot_pool_barrier(pool, self->index);
    }
}

void ingot_pool_run(ingot_pool *pool, uint32_t threads, ingot_pool_fn function, void *argument) {
    threads = threads > pool->threads ? pool->threads : threads;
    const uint32_t stalls = atomic_load_explicit(&pool->stalls, memory_order_relaxed);
    const uint32_t active = ingot_crew_size(&pool->crew, threads, stalls, ingot_platform_seconds());
    pool->function = function;
    pool->argument = argument;
    pool->stopped = false;
    atomic_store(&pool->cursor, 0);
    atomic_store(&pool->stop_requested, 0);
    atomic_store(&pool->active, active);
    atomic_store_explicit(&pool->workers[0].clock, ingot_platform_thread_clock(), memory_order_relaxed);
    for (uint32_t index = 1; index < active; index++) {
        give_job(&pool->workers[index]);
    }
    function(argument, 0);
    ingot_pool_barrier(pool, 0);
}

ingot_status ingot_pool_create(uint32_t threads, const uint64_t *place, uint32_t words, ingot_pool **pool) {
    size_t size = (sizeof(ingot_pool) + LINE - 1) / LINE * LINE;
    ingot_pool *created = aligned_alloc(LINE, size);
    if (created == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a pool of %u threads", threads);
    }
    *created = (ingot_pool){.threads = 1, .active = 1, .words = place != NULL && words <= PLACE_WORDS ? words : 0};
    for (uint32_t word = 0; word < created->words; word++) {
        created->place[word] = place[word];
    }
    for (uint32_t index = 1; index < threads; index++) {
        worker *started = &created->workers[index];
        started->pool = created;
        started->index = index;
        ingot_status status = ingot_platform_thread_start(worker_main, started, &started->thread);
        if (status != INGOT_OK) {
            ingot_pool_destroy(created);
            return status;
        }
        created->threads = index + 1;
    }
    *pool = created;
    return INGOT_OK;
}

void ingot_pool_destroy(ingot_pool *pool) {
    if (pool == NULL) {
        return;
    }
    atomic_store(&pool->quit, 1);
    for (uint32_t index = 1; index < pool->threads; index++) {
        give_job(&pool->workers[index]);
        ingot_platform_thread_join(pool->workers[index].thread);
    }
    free(pool);
}

void ingot_pool_abandon(ingot_pool *pool) { free(pool); }

uint32_t ingot_pool_threads(const ingot_pool *pool) {
    return atomic_load_explicit(&pool->active, memory_order_relaxed);
}

void ingot_pool_request_stop(ingot_pool *pool) { atomic_store(&pool->stop_requested, 1); }

bool ingot_pool_stopped(const ingot_pool *pool) { return pool->stopped; }

uint32_t ingot_pool_stalls(const ingot_pool *pool) { return atomic_load_explicit(&pool->stalls, memory_order_relaxed); }

void ingot_pool_plant_spin(ingot_pool *pool) { pool->spins = true; }
