/* SPDX-License-Identifier: Apache-2.0 */
/* Drives sessions from C over a real file, for sanitizers and for what Python cannot see.
 *
 *   session_driver FILE [--plant alloc|threads]
 *
 * Checks, one line each, exit 1 on the first that fails:
 *   same logits, to the bit, for 1 to 4 threads and for chunks of 1, 3 and the plan's;
 *   the same in any floating-point mode of the host;
 *   no allocation after the session is open (malloc and friends count while armed);
 *   cancel from another thread leaves the session usable; two sessions on two threads do not disturb each other.
 * --plant makes one check see a fault, to show that it can fail. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/float_mode.h"
#include "ingot.h"

#if defined(__x86_64__)
enum { FLUSH_AND_ROUND_DOWN = 0xa040 }; /* FTZ, rounding down, DAZ */
#else
enum { FLUSH_AND_ROUND_DOWN = 0x1800000 }; /* FZ, rounding towards minus infinity */
#endif

/* More than a run of attention, so that threads share a head. */
enum { TOKENS = 300, MAX_THREADS = 4 };

/* The executable's malloc comes before libc's, so that the library's calls are seen here too. Sanitizers bring their
 * own, so the count is left out there. */
static _Atomic int armed, counted;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
#define COUNTS_ALLOCATIONS 1
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
void *malloc(size_t size) {
    counted += armed;
    return armed ? NULL : __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    counted += armed;
    return armed ? NULL : __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size) {
    counted += armed;
    return armed ? NULL : __libc_realloc(memory, size);
}
#else
#define COUNTS_ALLOCATIONS 0
#endif

typedef struct run {
    uint32_t threads, chunk;
    float *logits; /* (TOKENS, width) */
} run;

static ingot_model *model;
static ingot_model_info info;
static int32_t tokens[TOKENS];

static int fail(const char *check, const char *why) {
    printf("FAIL %s: %s\n", check, why);
    return 1;
}

/* threads of decoding, and of prefill in the tens, if not the same */
static ingot_session *open_session(uint32_t threads, uint32_t chunk) {
    ingot_session_config config = {
        .struct_size = sizeof config,
        .threads = threads % 10,
        .prefill_threads = threads / 10,
        .chunk = chunk,
        .logits_rows = chunk == 1 ? 1 : 2,
    };
    ingot_session *session = NULL;
    if (ingot_session_create(model, &config, &session) != INGOT_OK) {
        fail("session", ingot_last_error());
        exit(1);
    }
    return session;
}

/* Prefills half of the tokens, then decodes the rest one by one, keeping the logits after each call. */
static bool evaluate(ingot_session *session, float *logits) {
    uint32_t half = TOKENS / 2;
    ingot_status status = ingot_session_eval(session, tokens, half, 1);
    memcpy(logits, ingot_session_logits(session, 0), info.logits_width * sizeof(float));
    for (uint32_t index = half; index < TOKENS && status == INGOT_OK; index++) {
        status = ingot_session_eval(session, tokens + index, 1, 1);
        memcpy(logits + (size_t)(index - half + 1) * info.logits_width, ingot_session_logits(session, 0),
               info.logits_width * sizeof(float));
    }
    return status == INGOT_OK;
}

/* Feeds as evaluate does, choosing after each call: from the head's few best, and from all logits. */
static bool choose(ingot_session *session) {
    const ingot_sampling configs[] = {{sizeof *configs, 0, 0.0, 1.0, 0.0, 1.0, 0},
                                      {sizeof *configs, 40, 0.8, 0.9, 0.05, 1.0, 5},
                                      {sizeof *configs, 0, 1.0, 0.9, 0.0, 1.3, 5}};
    ingot_status status = ingot_session_truncate(session, 0);
    for (uint32_t index = 0; index + 1 < TOKENS && status == INGOT_OK; index += 2) {
        int32_t chosen[2] = {0};
        uint32_t count = 0, before = ingot_session_position(session);
        const ingot_sampling *config = &configs[index / 2 % 3];
        status = ingot_session_step(session, tokens + index, 2, 1, config, tokens, index, chosen, &count);
        bool agreed = chosen[0] == tokens[index + 1];
        if (count != (agreed ? 2u : 1u) || ingot_session_position(session) != before + count ||
            ingot_session_logits(session, 0) != NULL) {
            return false;
        }
    }
    return status == INGOT_OK;
}

static float *evaluate_with(uint32_t threads, uint32_t chunk) {
    float *logits = calloc(TOKENS, info.logits_width * sizeof(float));
    ingot_session *session = open_session(threads, chunk);
    bool good = evaluate(session, logits);
    ingot_session_destroy(session);
    if (!good) {
        fail("eval", ingot_last_error());
        exit(1);
    }
    return logits;
}

static int check_same_bits(bool planted) {
    const run runs[] = {{2, 0, NULL}, {3, 0, NULL},  {MAX_THREADS, 0, NULL}, {1, 1, NULL},
                        {2, 3, NULL}, {31, 0, NULL}, {13, 0, NULL}};
    float *expected = evaluate_with(1, 0);
    size_t bytes = (size_t)(TOKENS / 2 + 1) * info.logits_width * sizeof(float);
    for (size_t index = 0; index < sizeof runs / sizeof *runs; index++) {
        float *found = evaluate_with(runs[index].threads, runs[index].chunk);
        found[7] += planted ? 1e-6f + 1e-6f * found[7] : 0.0f;
        bool same = memcmp(expected, found, bytes) == 0;
        free(found);
        if (!same) {
            free(expected);
            return fail("same bits for any threads and chunk", "the logits differ");
        }
    }
    free(expected);
    printf("ok   same bits for any threads and chunk\n");
    return 0;
}

/* A host that flushes subnormals to zero, or rounds down, must not change a bit, and must find its mode again. */
static int check_float_mode(void) {
    float *expected = evaluate_with(2, 0);
    uint64_t before = ingot_float_mode_get(), changed = before | FLUSH_AND_ROUND_DOWN;
    ingot_float_mode_set(changed);
    float *found = evaluate_with(2, 0);
    bool kept = ingot_float_mode_get() == changed;
    ingot_float_mode_set(before);
    bool same = memcmp(expected, found, (size_t)(TOKENS / 2 + 1) * info.logits_width * sizeof(float)) == 0;
    free(expected);
    free(found);
    if (!same || !kept) {
        return fail("any floating-point mode of the host", same ? "the mode was not restored" : "the logits differ");
    }
    printf("ok   any floating-point mode of the host\n");
    return 0;
}

static int check_no_allocation(bool planted) {
    if (!COUNTS_ALLOCATIONS) {
        printf("left out: no allocation after open (a sanitizer owns malloc)\n");
        return 0;
    }
    ingot_session *session = open_session(2, 0);
    float *logits = calloc(TOKENS, info.logits_width * sizeof(float));
    armed = 1;
    bool good = evaluate(session, logits) && choose(session);
    void *volatile extra = planted ? malloc(16) : NULL;
    armed = 0;
    (void)extra;
    free(logits);
    ingot_session_destroy(session);
    if (!good || counted != 0) {
        return fail("no allocation after open", good ? "the library allocated" : ingot_last_error());
    }
    printf("ok   no allocation after open\n");
    return 0;
}

static void *cancel_soon(void *argument) {
    for (int turn = 0; turn < 2000; turn++) {
        ingot_session_cancel(argument);
    }
    return NULL;
}

static int check_cancel(void) {
    ingot_session *session = open_session(2, 4);
    pthread_t thread;
    pthread_create(&thread, NULL, cancel_soon, session);
    ingot_status status = INGOT_OK;
    for (int turn = 0; turn < 200 && status == INGOT_OK; turn++) {
        status = ingot_session_truncate(session, 0);
        status = status == INGOT_OK ? ingot_session_eval(session, tokens, TOKENS, 1) : status;
    }
    pthread_join(thread, NULL);
    if (status != INGOT_OK && status != INGOT_ERROR_CANCELLED) {
        return fail("cancel", ingot_last_error());
    }
    (void)ingot_session_eval(session, tokens, 1, 1); /* takes up a cancel that came after the last eval */
    float *logits = calloc(TOKENS, info.logits_width * sizeof(float)), *expected = evaluate_with(1, 0);
    bool good = ingot_session_truncate(session, 0) == INGOT_OK && evaluate(session, logits) &&
                memcmp(logits, expected, info.logits_width * sizeof(float)) == 0;
    free(logits);
    free(expected);
    ingot_session_destroy(session);
    if (!good) {
        return fail("cancel", "the session is not as new after it");
    }
    printf("ok   cancel from another thread\n");
    return 0;
}

static void *evaluate_thread(void *argument) {
    run *job = argument;
    job->logits = evaluate_with(job->threads, job->chunk);
    return NULL;
}

static int check_two_sessions(void) {
    run jobs[2] = {{2, 0, NULL}, {2, 5, NULL}};
    pthread_t threads[2];
    for (int index = 0; index < 2; index++) {
        pthread_create(&threads[index], NULL, evaluate_thread, &jobs[index]);
    }
    for (int index = 0; index < 2; index++) {
        pthread_join(threads[index], NULL);
    }
    size_t bytes = (size_t)(TOKENS / 2 + 1) * info.logits_width * sizeof(float);
    bool same = memcmp(jobs[0].logits, jobs[1].logits, bytes) == 0;
    free(jobs[0].logits);
    free(jobs[1].logits);
    if (!same) {
        return fail("two sessions at once", "the logits differ");
    }
    printf("ok   two sessions at once\n");
    return 0;
}

int main(int count, char **arguments) {
    if (count < 2) {
        printf("usage: session_driver FILE [--plant alloc|bits]\n");
        return 2;
    }
    const char *planted = count > 3 && strcmp(arguments[2], "--plant") == 0 ? arguments[3] : "";
    info.struct_size = sizeof info;
    if (ingot_model_open(arguments[1], &model) != INGOT_OK || ingot_model_info_get(model, &info) != INGOT_OK) {
        return fail("open", ingot_last_error());
    }
    for (uint32_t index = 0; index < TOKENS; index++) {
        tokens[index] = (int32_t)((index * 7919u + 1u) % info.vocabulary);
    }
    int failed = check_same_bits(strcmp(planted, "bits") == 0);
    failed = failed || check_float_mode();
    failed = failed || check_no_allocation(strcmp(planted, "alloc") == 0);
    failed = failed || check_cancel();
    failed = failed || check_two_sessions();
    ingot_model_close(model);
    return failed;
}
