/* SPDX-License-Identifier: Apache-2.0 */
/* Makes each allocation fail in turn while a model is opened, sessions are used and all is closed again.
 *
 *   allocation_driver FILE... [--plant silent|leak]
 *
 * Counted are malloc, calloc, realloc, aligned_alloc, mmap, mremap and pthread_create of the library (--wrap). For every N the
 * N-th fails: the call that met it must give a status for it and a message of its own, must succeed when it is made
 * again, and the logits must be those of the run without a failure. In the end nothing may be held. The first file runs
 * once more on the backend of backend_sample.c. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/error.h"
#include "ingot.h"
#include "ingot_format.h"

enum { TOKENS = 12, MOST_ENTRIES = 4096, MOST_WIDTH = 1 << 16 };

static const char MARKER[] = "nothing failed yet";
static _Atomic long counter;        /* allocations of this run */
static _Atomic long failing = -1;   /* the one that fails */
static _Atomic long held;           /* not given back yet */
static _Atomic bool armed;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *memory);
void *__real_mmap(void *address, size_t size, int protection, int flags, int descriptor, off_t offset);
void *__real_mremap(void *memory, size_t size, size_t wanted, int flags, ...);
int __real_munmap(void *memory, size_t size);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __wrap_free(void *memory);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int descriptor, off_t offset);
void *__wrap_mremap(void *memory, size_t size, size_t wanted, int flags, ...);
int __wrap_munmap(void *memory, size_t size);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);

static bool fails(void) { return armed && counter++ == failing; }

static void *hold(void *memory) {
    held += armed && memory != NULL;
    return memory;
}

void *__wrap_malloc(size_t size) { return fails() ? NULL : hold(__real_malloc(size)); }

void *__wrap_calloc(size_t count, size_t size) { return fails() ? NULL : hold(__real_calloc(count, size)); }

void *__wrap_realloc(void *memory, size_t size) {
    held -= armed && memory != NULL;
    return fails() ? NULL : hold(__real_realloc(memory, size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    return fails() ? NULL : hold(__real_aligned_alloc(alignment, size));
}

void __wrap_free(void *memory) {
    held -= armed && memory != NULL;
    __real_free(memory);
}

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int descriptor, off_t offset) {
    void *memory = fails() ? MAP_FAILED : __real_mmap(address, size, protection, flags, descriptor, offset);
    held += armed && memory != MAP_FAILED;
    return memory;
}

/* The library moves pages over those of a mapping that it has: one is left of the two. */
void *__wrap_mremap(void *memory, size_t size, size_t wanted, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    void *address = va_arg(arguments, void *);
    va_end(arguments);
    void *moved = fails() ? MAP_FAILED : __real_mremap(memory, size, wanted, flags, address);
    held -= armed && moved != MAP_FAILED;
    return moved;
}

int __wrap_munmap(void *memory, size_t size) {
    held -= armed;
    return __real_munmap(memory, size);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    return fails() ? 11 : __real_pthread_create(thread, attributes, run, argument); /* EAGAIN */
}

typedef struct scene {
    const char *file;
    const char *backend; /* NULL: the CPU */
    ingot_model *model;
    ingot_session *session, *child, *restored;
    ingot_model_info info;
    uint8_t *block;
    uint32_t failures; /* calls that failed */
    bool bad;
    const char *what; /* is wrong */
} scene;

static void wrong(scene *self, const char *what) {
    if (!self->bad) {
        self->bad = true;
        self->what = what;
    }
}

static bool for_want_of_memory(ingot_status status) {
    return status == INGOT_ERROR_OUT_OF_MEMORY || status == INGOT_ERROR_THREADS || status == INGOT_ERROR_IO;
}

/* Whether a call is to be made again: it failed, as it should, for want of memory. */
static bool again(scene *self, ingot_status status, uint32_t turn) {
    if (status == INGOT_OK) {
        return false;
    }
    self->failures++;
    if (turn != 0 || !for_want_of_memory(status)) {
        wrong(self, turn != 0 ? "a second try fails" : "another status than that of a lack of memory");
        return false;
    }
    if (ingot_last_error()[0] == '\0' || strcmp(ingot_last_error(), MARKER) == 0) {
        wrong(self, "a failure without a message");
    }
    return true;
}

#define TRY(self, call)                               \
    do {                                              \
        for (uint32_t turn = 0; turn < 2; turn++) {   \
            (void)ingot_fail(INGOT_OK, "%s", MARKER); \
            if (!again((self), (call), turn)) {       \
                break;                                \
            }                                         \
        }                                             \
    } while (!(self) && false)

static void open_all(scene *self) {
    const ingot_session_config config = {
        .struct_size = sizeof config, .threads = 3, .prefill_threads = 2, .logits_rows = 2};
    self->info.struct_size = sizeof self->info;
    const ingot_open_config open = {.struct_size = sizeof open, .backend = self->backend};
    TRY(self, ingot_model_open_with(self->file, &open, &self->model));
    if (!self->bad) {
        TRY(self, ingot_model_info_get(self->model, &self->info));
        ingot_memory_info memory = {.struct_size = sizeof memory};
        uint32_t context = 0;
        TRY(self, ingot_session_measure(self->model, &config, &memory, &context));
        TRY(self, ingot_session_create(self->model, &config, &self->session));
    }
    if (!self->bad) {
        TRY(self, ingot_session_create(self->model, &config, &self->restored));
    }
}

static void copy_block(scene *self) {
    const uint64_t size = ingot_session_block_bytes(self->session);
    self->block = __real_malloc(size);
    TRY(self, ingot_session_block_read(self->session, 0, self->block, size));
    TRY(self, ingot_session_block_write(self->restored, 0, self->block, size));
    TRY(self, ingot_session_resume(self->restored, TOKENS));
    __real_free(self->block);
}

static void feed_all(scene *self, float *logits) {
    static ingot_profile_entry entries[MOST_ENTRIES];
    int32_t tokens[TOKENS], chosen[2];
    uint32_t count = 0;
    const ingot_sampling sampling = {sizeof sampling, 5, 0.8, 0.9, 0.0, 1.0, 3};
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(i * 7 % self->info.vocabulary);
    }
    if (self->backend == NULL) {
        TRY(self, ingot_session_profile(self->session, 1));
    }
    TRY(self, ingot_session_eval(self->session, tokens, TOKENS, 1));
    if (self->backend == NULL) {
        TRY(self, ingot_session_profile_read(self->session, 0, entries, MOST_ENTRIES, &count));
    }
    copy_block(self);
    TRY(self, ingot_session_fork(self->session, TOKENS, &self->child));
    if (!self->bad) {
        TRY(self, ingot_session_eval(self->child, tokens, 1, 1));
        memcpy(logits, ingot_session_logits(self->child, 0), self->info.logits_width * sizeof *logits);
        (void)ingot_session_step(self->session, tokens, 2, 1, &sampling, tokens, 0, chosen, &count);
        TRY(self, ingot_session_eval(self->restored, tokens, 1, 0));
    }
}

static uint32_t first_linear(void) {
    ingot_kernel_info info = {.struct_size = sizeof info};
    for (uint32_t index = 0; ingot_kernel_info_get(index, &info) == INGOT_OK; index++) {
        if (info.isa == INGOT_ISA_REF && strncmp(info.name, "linear_q8", 9) == 0) {
            return index;
        }
    }
    return 0;
}

static void run_kernel(scene *self) {
    static _Alignas(64) uint8_t weights[64 + 16 * 32 + 64];
    static float x[32], out[16];
    const ingot_linear_call call = {.struct_size = sizeof call,
                                    .dtype = INGOT_DTYPE_Q8,
                                    .k = 32,
                                    .group = 32,
                                    .m = 1,
                                    .tile_end = 1,
                                    .weights = weights,
                                    .weights_size = sizeof weights,
                                    .x = x,
                                    .out = out};
    const uint32_t kernel = first_linear();
    TRY(self, ingot_kernel_run(kernel, &call));
}

/* Opens, feeds, closes; the N-th allocation fails. @return whether there was an N-th. */
static bool play(scene *self, long nth, float *logits) {
    counter = 0;
    failing = nth;
    armed = true;
    open_all(self);
    if (!self->bad) {
        feed_all(self, logits);
        run_kernel(self);
    }
    ingot_session_destroy(self->session);
    ingot_model_close(self->model);
    ingot_session_destroy(self->child);
    ingot_session_destroy(self->restored);
    armed = false;
    return counter > nth;
}

static int complain(const char *file, long nth, const char *what) {
    printf("FAIL %s: allocation %ld: %s (%s)\n", file, nth, what, ingot_last_error());
    return 1;
}

static int check_file(const char *file, const char *backend, const char *planted) {
    static float expected[MOST_WIDTH], found[MOST_WIDTH];
    scene first = {.file = file, .backend = backend};
    (void)play(&first, -1, expected);
    const long total = counter;
    if (first.bad || first.failures != 0 || held != 0) {
        return complain(file, -1, first.bad ? first.what : "the run without a failure holds memory");
    }
    for (long nth = 0; nth < total; nth++) {
        scene self = {.file = file, .backend = backend};
        const bool met = play(&self, nth, found);
        held += strcmp(planted, "leak") == 0 && nth == total / 2;
        self.failures -= strcmp(planted, "silent") == 0 && nth == total / 2;
        if (self.bad || !met || self.failures != 1) {
            return complain(file, nth, self.bad ? self.what : "the failure was not reported once");
        }
        if (memcmp(expected, found, self.info.logits_width * sizeof *found) != 0) {
            return complain(file, nth, "other logits after a second try");
        }
        if (held != 0) {
            return complain(file, nth, "memory is held after all was closed");
        }
    }
    printf("ok   %ld allocations, each reported, repeated and given back\n", total);
    return 0;
}

int main(int count, char **arguments) {
    const char *planted = "";
    int files = count;
    if (count > 2 && strcmp(arguments[count - 2], "--plant") == 0) {
        planted = arguments[count - 1];
        files = count - 2;
    }
    if (files < 2) {
        printf("usage: allocation_driver FILE... [--plant silent|leak]\n");
        return 2;
    }
    int failed = 0;
    for (int index = 1; index < files && failed == 0; index++) {
        failed = check_file(arguments[index], NULL, planted);
    }
    (void)setenv("INGOT_SAMPLE_TAKES", "attention", 1);
    failed = failed != 0 ? failed : check_file(arguments[1], "sample", planted);
    return failed;
}
