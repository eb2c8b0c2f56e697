/* SPDX-License-Identifier: Apache-2.0 */
/* Forks sessions over a real file: what they share, when they copy, and that nobody sees the other.
 *
 *   fork_driver FILE [--plant write|leak|alloc]
 *
 * Checks, one line each, exit 1 on the first that fails, for every format of keys and values:
 *   a fork goes on as a session that was fed all of it, to the bit, and so does its parent;
 *   blocks before the fork are the same memory, a written one is not;
 *   nothing is allocated after a fork; all blocks come back;
 *   parent and forks on threads of their own; blocks copied out and in give the same session.
 * --plant makes one check see a fault, to show that it can fail. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/session.h"
#include "ingot.h"

enum { TOKENS = 200, FORKS = 3 };

static _Atomic int armed, counted;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
void *malloc(size_t size) {
    counted += armed;
    return armed ? NULL : __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    counted += armed;
    return armed ? NULL : __libc_calloc(count, size);
}
#endif

static ingot_model *model;
static ingot_model_info info;
static uint32_t format;
static const char *planted = "";

static int32_t token(uint32_t seed, uint32_t index) {
    return (int32_t)((index * 7919u + seed * 104729u + 1u) % info.vocabulary);
}

static int fail(const char *check, const char *reason) {
    printf("FAIL %s (kv format %u): %s\n", check, format, reason);
    return 1;
}

static ingot_session *open_session(uint32_t threads) {
    ingot_session_config config = {.struct_size = sizeof config, .threads = threads, .kv_format = format};
    ingot_session *session = NULL;
    if (ingot_session_create(model, &config, &session) != INGOT_OK) {
        printf("%s\n", ingot_last_error());
        exit(2);
    }
    return session;
}

static bool feed(ingot_session *session, uint32_t seed, uint32_t begin, uint32_t end) {
    int32_t tokens[TOKENS];
    for (uint32_t i = begin; i < end; i++) {
        tokens[i - begin] = token(seed, i);
    }
    return ingot_session_eval(session, tokens, end - begin, 1) == INGOT_OK;
}

/* Whether the session's last logits are those of a fresh one: seed 0 before `at`, then `seed`. */
static bool as_fresh(const ingot_session *session, uint32_t at, uint32_t seed, uint32_t end) {
    ingot_session *fresh = open_session(1);
    bool same = (at == 0 || feed(fresh, 0, 0, at)) && feed(fresh, seed, at, end);
    same = same && memcmp(ingot_session_logits(fresh, 0), ingot_session_logits(session, 0),
                          info.logits_width * sizeof(float)) == 0;
    ingot_session_destroy(fresh);
    return same;
}

static int check_fork_at(uint32_t at) {
    ingot_session *parent = open_session(2), *child = NULL;
    bool good = feed(parent, 0, 0, 150) && ingot_session_fork(parent, at, &child) == INGOT_OK;
    if (good && planted[0] == 'w' && at % INGOT_ATTENTION_BLOCK != 0) { /* the child believes that it is alone */
        atomic_store(&child->kv.held[at / INGOT_ATTENTION_BLOCK]->users, 1);
    }
    good = good && feed(child, 1, at, at + 40) && as_fresh(child, at, 1, at + 40);
    good = good && feed(parent, 0, 150, 170) && as_fresh(parent, 0, 0, 170);
    ingot_session_destroy(at % 2 == 0 ? parent : child);
    ingot_session *left = at % 2 == 0 ? child : parent;
    good = good && feed(left, 1, 170, 180);
    ingot_session_destroy(left);
    return good ? 0 : fail("a fork is as a session of its own", ingot_last_error());
}

static int check_forks(void) {
    static const uint32_t places[] = {0, 1, 64, 100, 128, 150};
    int failed = 0;
    for (uint32_t i = 0; i < 6 && !failed; i++) {
        failed = check_fork_at(places[i]);
    }
    if (!failed) {
        printf("ok   a fork is as a session of its own\n");
    }
    return failed;
}

static int check_sharing(void) {
    ingot_session *parent = open_session(1), *child = NULL;
    bool good = feed(parent, 0, 0, 150) && ingot_session_fork(parent, 150, &child) == INGOT_OK;
    bool shared = good, copied = good;
    for (uint32_t block = 0; shared && block < 3; block++) {
        shared = parent->kv.blocks[block] == child->kv.blocks[block];
    }
    if (good) {
        copied = feed(child, 1, 150, 151) && parent->kv.blocks[2] != child->kv.blocks[2] &&
                 parent->kv.blocks[1] == child->kv.blocks[1];
    }
    ingot_session_destroy(child);
    ingot_session_destroy(parent);
    if (!shared || !copied) {
        return fail("blocks before the fork are shared", shared ? "a written block was not copied" : "they are not");
    }
    printf("ok   blocks before the fork are shared\n");
    return 0;
}

static int check_pool(void) {
    ingot_session *parent = open_session(1), *child = NULL;
    const uint32_t length = parent->kv.length;
    bool good = feed(parent, 0, 0, 150);
    for (int turn = 0; turn < 3 && good; turn++) { /* forks that come and go need no more memory */
        good = ingot_session_fork(parent, 100, &child) == INGOT_OK;
        armed = 1;
        good = good && feed(child, 1, 100, 200) && feed(parent, 0, 150, 180);
        void *volatile extra = planted[0] == 'a' ? malloc(16) : NULL;
        armed = 0;
        (void)extra;
        good = good && ingot_session_truncate(parent, 150) == INGOT_OK;
        ingot_session_destroy(child);
    }
    good = good && counted == 0 && ingot_session_truncate(parent, 0) == INGOT_OK;
    if (planted[0] == 'l') {
        (void)ingot_kv_take(parent->kv.family);
    }
    const uint32_t left = ingot_kv_free_count(parent->kv.family);
    ingot_session_destroy(parent);
    if (!good || left != 2 * length + 1) {
        return fail("no allocation after a fork, all blocks come back", counted != 0 ? "it allocated" : "blocks lack");
    }
    printf("ok   no allocation after a fork, all blocks come back\n");
    return 0;
}

typedef struct job {
    ingot_session *session;
    uint32_t seed, at;
    bool good;
} job;

static void *run_job(void *argument) {
    job *j = argument;
    j->good = true;
    for (uint32_t turn = 0; turn < 3 && j->good; turn++) {
        j->good = ingot_session_truncate(j->session, j->at) == INGOT_OK && feed(j->session, j->seed, j->at, 180);
    }
    j->good = j->good && as_fresh(j->session, j->at, j->seed, 180);
    ingot_session_destroy(j->session);
    return NULL;
}

static int check_threads(void) {
    job jobs[FORKS + 1] = {{open_session(2), 0, 90, true}};
    bool good = feed(jobs[0].session, 0, 0, 100);
    for (uint32_t i = 1; i <= FORKS; i++) {
        jobs[i] = (job){NULL, i, 90 + i, true};
        good = good && ingot_session_fork(jobs[0].session, jobs[i].at, &jobs[i].session) == INGOT_OK;
    }
    pthread_t threads[FORKS + 1];
    for (uint32_t i = 0; i <= FORKS; i++) {
        pthread_create(&threads[i], NULL, run_job, &jobs[i]);
    }
    for (uint32_t i = 0; i <= FORKS; i++) {
        pthread_join(threads[i], NULL);
        good = good && jobs[i].good;
    }
    if (!good) {
        return fail("a family on several threads", ingot_last_error());
    }
    printf("ok   a family on several threads\n");
    return 0;
}

static int check_copies(void) {
    ingot_session *from = open_session(1), *to = open_session(2);
    const uint64_t bytes = ingot_session_block_bytes(from);
    uint8_t *buffer = calloc(1, bytes);
    bool good = feed(from, 0, 0, 150);
    for (uint32_t block = 0; block < 3 && good; block++) {
        good = ingot_session_block_read(from, block, buffer, bytes) == INGOT_OK &&
               ingot_session_block_write(to, block, buffer, bytes) == INGOT_OK;
    }
    good = good && ingot_session_block_read(from, 3, buffer, bytes) == INGOT_ERROR_WRONG_STATE;
    good = good && ingot_session_resume(to, 200) == INGOT_ERROR_WRONG_STATE;
    good = good && ingot_session_resume(to, 150) == INGOT_OK && feed(to, 1, 150, 170) && as_fresh(to, 150, 1, 170);
    good = good && ingot_session_block_write(to, 0, buffer, bytes) == INGOT_ERROR_WRONG_STATE;
    free(buffer);
    ingot_session_destroy(from);
    ingot_session_destroy(to);
    if (!good) {
        return fail("blocks copied out and in", ingot_last_error());
    }
    printf("ok   blocks copied out and in\n");
    return 0;
}

int main(int count, char **arguments) {
    if (count < 2) {
        printf("usage: fork_driver FILE [--plant write|leak|alloc]\n");
        return 2;
    }
    planted = count > 3 && strcmp(arguments[2], "--plant") == 0 ? arguments[3] : "";
    info.struct_size = sizeof info;
    if (ingot_model_open(arguments[1], &model) != INGOT_OK || ingot_model_info_get(model, &info) != INGOT_OK) {
        return fail("open", ingot_last_error());
    }
    int failed = 0;
    for (format = INGOT_KV_F16; format <= INGOT_KV_K8V4 && !failed; format++) {
        failed = check_forks() || check_sharing() || check_pool() || check_threads() || check_copies();
    }
    ingot_model_close(model);
    return failed;
}
