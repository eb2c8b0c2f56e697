/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of SIGBUS while a file is mapped, and of the environment in a set-uid process.
 *
 *   guard_driver FILE COPY [--plant unguarded|handler]   COPY is FILE's content again; it is cut short
 *   guard_driver --mask                                  prints ingot_cpu_mask()
 *
 * Checks, one line each, exit 1 if one fails. --plant makes a check see a fault, to show that it can fail. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ingot.h"

static const char *file, *copy, *plant = "";
static sigjmp_buf back;
static volatile sig_atomic_t caught, jumps;
static int failures;

static void report(const char *what, bool held) {
    printf("%s %s\n", held ? "ok  " : "FAIL", what);
    failures += !held;
}

/* The host program's own handler, with all that sigaction() can give it. */
static void host_handler(int number, siginfo_t *info, void *context) {
    (void)context;
    caught = number == SIGBUS && info != NULL ? caught + 1 : -1000;
    if (jumps) {
        siglongjmp(back, 1);
    }
}

static void set_host_handler(void) {
    struct sigaction host = {.sa_sigaction = host_handler, .sa_flags = SA_SIGINFO};
    sigemptyset(&host.sa_mask);
    sigaction(SIGBUS, &host, NULL);
}

static bool host_handler_is_set(void) {
    struct sigaction present;
    return sigaction(SIGBUS, NULL, &present) == 0 && present.sa_sigaction == host_handler;
}

static ingot_model *open_file(const char *path, uint32_t flags) {
    const ingot_open_config config = {.struct_size = sizeof config, .flags = flags};
    ingot_model *model = NULL;
    if (ingot_model_open_with(path, &config, &model) != INGOT_OK) {
        fprintf(stderr, "%s\n", ingot_last_error());
        exit(2);
    }
    return model;
}

static ingot_session *open_session(ingot_model *model, uint32_t threads) {
    const ingot_session_config config = {.struct_size = sizeof config, .threads = threads};
    ingot_session *session = NULL;
    if (ingot_session_create(model, &config, &session) != INGOT_OK) {
        fprintf(stderr, "%s\n", ingot_last_error());
        exit(2);
    }
    return session;
}

static ingot_status feed(ingot_session *session) {
    static const int32_t TOKENS[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    return ingot_session_eval(session, TOKENS, 9, 1);
}

static void *feed_on_thread(void *session) { return (void *)(intptr_t)feed(session); }

/* Cuts COPY after half of its weights. */
static void cut_short(const ingot_model *model) {
    ingot_model_info info = {.struct_size = sizeof info};
    ingot_model_info_get(model, &info);
    if (truncate(copy, (off_t)(info.weights_offset + info.weights_size / 2)) != 0) {
        exit(2);
    }
}

/* Two sessions of two threads each, on two threads; another model beside them must notice nothing. */
static void check_truncated(void) {
    ingot_model *model = open_file(copy, INGOT_OPEN_GUARD), *other = open_file(file, INGOT_OPEN_GUARD);
    ingot_session *first = open_session(model, 2), *second = open_session(model, 2), *sound = open_session(other, 2);
    bool before = feed(first) == INGOT_OK && ingot_model_intact(model) == INGOT_OK;
    uint32_t position = ingot_session_position(first);
    cut_short(model);
    pthread_t thread;
    void *status = NULL;
    pthread_create(&thread, NULL, feed_on_thread, second);
    bool lost = feed(first) == INGOT_ERROR_FILE_LOST && ingot_session_position(first) == position;
    pthread_join(thread, &status);
    report("a file cut short while mapped is an error on every thread",
           before && lost && (intptr_t)status == INGOT_ERROR_FILE_LOST && caught == 0);
    report("it stays one", feed(first) == INGOT_ERROR_FILE_LOST && ingot_model_intact(model) == INGOT_ERROR_FILE_LOST &&
                               strstr(ingot_last_error(), "cut short") != NULL);
    report("another model notices nothing", feed(sound) == INGOT_OK && ingot_model_intact(other) == INGOT_OK);
    ingot_session_destroy(first);
    ingot_session_destroy(second);
    ingot_session_destroy(sound);
    ingot_model_close(model);
    ingot_model_close(other);
}

/* A mapping of the host's own whose file has shrunk, touched while a guarded model is open. */
static void check_chain(void) {
    ingot_model *model = open_file(file, INGOT_OPEN_GUARD);
    char name[] = "guard-driver-XXXXXX";
    int descriptor = mkstemp(name);
    unlink(name);
    const long page = sysconf(_SC_PAGESIZE);
    const char *mapped = MAP_FAILED;
    if (ftruncate(descriptor, page) == 0) {
        mapped = mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, descriptor, 0);
    }
    bool cut = mapped != MAP_FAILED && ftruncate(descriptor, 0) == 0;
    if (strcmp(plant, "handler") == 0) {
        struct sigaction nobody = {.sa_handler = SIG_IGN};
        sigaction(SIGBUS, &nobody, NULL);
    }
    caught = 0;
    raise(SIGBUS);
    bool sent = caught == 1;
    jumps = 1;
    if (cut && sent && sigsetjmp(back, 1) == 0) {
        (void)*(volatile const char *)mapped;
    }
    jumps = 0;
    report("every other SIGBUS goes to the host's handler", cut && caught == 2);
    ingot_model_close(model);
    close(descriptor);
}

/* Without being asked the library leaves SIGBUS alone, and the process dies of it. */
static void check_unguarded(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGBUS, SIG_DFL);
        ingot_model *model = open_file(copy, strcmp(plant, "unguarded") == 0 ? INGOT_OPEN_GUARD : 0);
        ingot_session *session = open_session(model, 1);
        cut_short(model);
        (void)feed(session);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    report("unasked it is left alone", WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--mask") == 0) {
        printf("%u\n", ingot_cpu_mask());
        return 0;
    }
    if (argc != 3 && argc != 5) {
        fprintf(stderr, "usage: guard_driver FILE COPY [--plant unguarded|handler]\n");
        return 2;
    }
    file = argv[1];
    copy = argv[2];
    plant = argc == 5 ? argv[4] : "";
    set_host_handler();
    check_unguarded();
    FILE *from = fopen(file, "rb"), *to = fopen(copy, "wb"); /* whole again */
    for (int byte = from != NULL && to != NULL ? getc(from) : EOF; byte != EOF; byte = getc(from)) {
        putc(byte, to);
    }
    if (from == NULL || to == NULL || fclose(to) != 0 || fclose(from) != 0) {
        return 2;
    }
    check_truncated();
    report("the host's handler is back", host_handler_is_set());
    check_chain();
    return failures != 0;
}
