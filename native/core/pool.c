/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pool.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "core/error.h"
#include "platform/platform.h"

enum { SPINS_PER_TURN = 150, TURNS_BEFORE_SLEEP = 2000, LINE = 64 };

typedef struct worker {
    ingot_pool *pool;
    uint32_t index;
    ingot_thread *thread;
} worker;

/* The words that threads fight over stand on lines of their own. */
struct ingot_pool {
    _Alignas(LINE) _Atomic uint32_t generation; /* of the barrier */
    _Atomic uint32_t sleepers;
    _Alignas(LINE) _Atomic uint32_t arrived;
    _Alignas(LINE) _Atomic uint32_t cursor;
    _Alignas(LINE) _Atomic uint32_t job; /* counts runs; workers wait for the next */
    _Atomic uint32_t quit;
    _Atomic uint32_t stop_requested;
    bool stopped; /* written only by the last at a barrier */
    uint32_t threads;
    ingot_pool_fn function;
    void *argument;
    worker workers[INGOT_MAX_THREADS];
};

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` is a no-op on most cores */
#endif
}

/* Waits until *word differs from `seen`. A short spin, then a turn for whoever else wants this CPU: if that is the very
 * thread waited for, spinning on would only keep it from running. At last it sleeps; the sleepers count lets the waker
 * skip the system call. */
static void wait_for_change(ingot_pool *pool, _Atomic uint32_t *word, uint32_t seen) {
    for (uint32_t turn = 0; turn < TURNS_BEFORE_SLEEP; turn++) {
        for (uint32_t spin = 0; spin < SPINS_PER_TURN; spin++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen) {
                return;
            }
            pause_briefly();
        }
        ingot_platform_yield();
    }
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(word) == seen) {
        ingot_platform_wait(word, seen);
    }
    atomic_fetch_sub(&pool->sleepers, 1);
}

static void change(ingot_pool *pool, _Atomic uint32_t *word) {
    atomic_fetch_add(word, 1);
    if (atomic_load(&pool->sleepers) != 0) {
        ingot_platform_wake_all(word);
    }
}

void ingot_pool_barrier(ingot_pool *pool) {
    if (pool->threads == 1) {
        atomic_store_explicit(&pool->cursor, 0, memory_order_relaxed);
        pool->stopped = atomic_load_explicit(&pool->stop_requested, memory_order_relaxed) != 0;
        return;
    }
    uint32_t generation = atomic_load_explicit(&pool->generation, memory_order_acquire);
    if (atomic_fetch_add(&pool->arrived, 1) + 1 < pool->threads) {
        wait_for_change(pool, &pool->generation, generation);
        return;
    }
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->cursor, 0, memory_order_relaxed);
    pool->stopped = atomic_load_explicit(&pool->stop_requested, memory_order_relaxed) != 0;
    change(pool, &pool->generation);
}

bool ingot_pool_take(ingot_pool *pool, uint32_t items, uint32_t grain, uint32_t *begin, uint32_t *end) {
    uint32_t first = atomic_load_explicit(&pool->cursor, memory_order_relaxed);
    uint32_t last;
    do {
        if (first >= items) {
            return false;
        }
        uint32_t share = (items - first) / (2 * pool->threads);
        share = pool->threads == 1 ? items - first : share - share % grain;
        share = share < grain ? grain : share;
        last = items - first < share ? items : first + share;
    } while (!atomic_compare_exchange_weak_explicit(&pool->cursor, &first, last, memory_order_relaxed,
                                                    memory_order_relaxed));
    *begin = first;
    *end = last;
    return true;
}

static void worker_main(void *argument) {
    worker *self = argument;
    ingot_pool *pool = self->pool;
    uint32_t seen = 0;
    for (;;) {
        wait_for_change(pool, &pool->job, seen);
        seen++;
        if (atomic_load(&pool->quit) != 0) {
            return;
        }
        pool->function(pool->argument, self->index);
        ingot_pool_barrier(pool);
    }
}

void ingot_pool_run(ingot_pool *pool, ingot_pool_fn function, void *argument) {
    pool->function = function;
    pool->argument = argument;
    pool->stopped = false;
    atomic_store(&pool->cursor, 0);
    atomic_store(&pool->stop_requested, 0);
    if (pool->threads > 1) {
        change(pool, &pool->job);
    }
    function(argument, 0);
    ingot_pool_barrier(pool);
}

ingot_status ingot_pool_create(uint32_t threads, ingot_pool **pool) {
    size_t size = (sizeof(ingot_pool) + LINE - 1) / LINE * LINE;
    ingot_pool *created = aligned_alloc(LINE, size);
    if (created == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a pool of %u threads", threads);
    }
    *created = (ingot_pool){.threads = 1};
    for (uint32_t index = 1; index < threads; index++) {
        created->workers[index] = (worker){created, index, NULL};
        ingot_status status =
            ingot_platform_thread_start(worker_main, &created->workers[index], &created->workers[index].thread);
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
    change(pool, &pool->job);
    for (uint32_t index = 1; index < pool->threads; index++) {
        ingot_platform_thread_join(pool->workers[index].thread);
    }
    free(pool);
}

void ingot_pool_abandon(ingot_pool *pool) { free(pool); }

uint32_t ingot_pool_threads(const ingot_pool *pool) { return pool->threads; }

void ingot_pool_request_stop(ingot_pool *pool) { atomic_store(&pool->stop_requested, 1); }

bool ingot_pool_stopped(const ingot_pool *pool) { return pool->stopped; }
