/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "ingot_format.h"
#include "platform/platform.h"

struct ingot_thread {
    pthread_t handle;
    ingot_thread_fn function;
    void *argument;
};

/* Of the open file, not of its name, which may be another's by now. */
static ingot_status check_trust(const struct stat *status, const char *path) {
    if ((status->st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return ingot_fail(INGOT_ERROR_UNTRUSTED, "'%.120s' has mode %04o: group or others may write it; chmod go-w it",
                          path, (unsigned)status->st_mode & 07777u);
    }
    if (status->st_uid != 0 && status->st_uid != geteuid()) {
        return ingot_fail(INGOT_ERROR_UNTRUSTED, "'%.120s' belongs to user %u, who may change it; chown it, or copy it",
                          path, (unsigned)status->st_uid);
    }
    return INGOT_OK;
}

static ingot_status map_descriptor(int descriptor, const char *path, bool strict, const uint8_t **data,
                                   uint64_t *size) {
    struct stat status;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        return ingot_fail(INGOT_ERROR_IO, "'%.160s' is not a regular file", path);
    }
    if (strict && check_trust(&status, path) != INGOT_OK) {
        return INGOT_ERROR_UNTRUSTED;
    }
    if (status.st_size == 0) {
        return ingot_fail_rule(INGOT_ERROR_FORMAT, INGOT_RULE_FILE_TOO_SMALL, "'%.160s' is empty", path);
    }
    if (sizeof(size_t) == 4 && status.st_size > 1500000000) {
        return ingot_fail(INGOT_ERROR_IO, "'%.120s' has %lld bytes, a 32-bit device maps at most 1.5 GB", path,
                          (long long)status.st_size);
    }
    void *memory = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) {
        return ingot_fail(INGOT_ERROR_IO, "cannot map '%.160s': %s", path, strerror(errno));
    }
    (void)madvise(memory, (size_t)status.st_size, MADV_WILLNEED);
    *data = memory;
    *size = (uint64_t)status.st_size;
    return INGOT_OK;
}

ingot_status ingot_platform_map(const char *path, bool strict, const uint8_t **data, uint64_t *size) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO must not hold us up */
    if (descriptor < 0) {
        return ingot_fail(INGOT_ERROR_IO, "cannot open '%.160s': %s", path, strerror(errno));
    }
    ingot_status status = map_descriptor(descriptor, path, strict, data, size);
    close(descriptor);
    return status;
}

void ingot_platform_unmap(const uint8_t *data, uint64_t size) {
    if (data != NULL) {
        munmap((void *)(uintptr_t)data, (size_t)size);
    }
}

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; older kernels refuse it, which is fine */
#endif

void ingot_platform_prefault(const uint8_t *data, uint64_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data, end = begin + (uintptr_t)size;
    begin -= begin % page;
    (void)madvise((void *)begin, end - begin, MADV_POPULATE_READ);
}

ingot_status ingot_platform_keep(const uint8_t *data, uint64_t size) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data / page * page;
    const size_t length = (size_t)(((uintptr_t)data + (uintptr_t)size - begin + page - 1) / page * page);
    if (length == 0) {
        return INGOT_OK;
    }
    void *copy = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "the system gave no %zu bytes", length);
    }
    memcpy(copy, (const void *)begin, length);
    if (mprotect(copy, length, PROT_READ) != 0 ||
        mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)begin) == MAP_FAILED) {
        ingot_status status =
            ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "cannot keep %zu bytes: %s", length, strerror(errno));
        munmap(copy, length);
        return status;
    }
    return INGOT_OK;
}

uint64_t ingot_platform_forget(const void *memory, uint64_t size) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)memory + (uintptr_t)size) / page * page;
    if (end <= begin || madvise((void *)begin, end - begin, MADV_DONTNEED) != 0) {
        return 0;
    }
    return end - begin;
}

ingot_status ingot_platform_allocate(uint64_t size, void **memory) {
    void *pages = MAP_FAILED;
    if (size > 0 && size <= SIZE_MAX / 2) {
        pages = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (pages == MAP_FAILED) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "the system gave no %llu bytes", (unsigned long long)size);
    }
    *memory = pages;
    return INGOT_OK;
}

void ingot_platform_release(void *memory, uint64_t size) {
    if (memory != NULL) {
        munmap(memory, (size_t)size);
    }
}

void ingot_platform_affinity(uint64_t *mask, uint32_t words) {
    cpu_set_t set;
    CPU_ZERO(&set);
    bool known = sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t count = online > 0 ? (uint32_t)online : 1;
    for (uint32_t cpu = 0; cpu < 64 * words && cpu < CPU_SETSIZE; cpu++) {
        if (known ? CPU_ISSET(cpu, &set) != 0 : cpu < count) {
            mask[cpu / 64] |= UINT64_C(1) << cpu % 64;
        }
    }
}

void ingot_platform_pin(const uint64_t *mask, uint32_t words) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (uint32_t cpu = 0; cpu < 64 * words && cpu < CPU_SETSIZE; cpu++) {
        if ((mask[cpu / 64] >> cpu % 64 & 1) != 0) {
            CPU_SET(cpu, &set);
        }
    }
    (void)sched_setaffinity(0, sizeof set, &set);
}

uint64_t ingot_platform_process(void) { return (uint64_t)getpid(); }

double ingot_platform_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int64_t ingot_platform_thread_clock(void) {
    clockid_t clock;
    return pthread_getcpuclockid(pthread_self(), &clock) == 0 ? (int64_t)clock : 0;
}

double ingot_platform_clock_seconds(int64_t clock) {
    struct timespec spent;
    if (clock == 0 || clock_gettime((clockid_t)clock, &spent) != 0) {
        return 0.0;
    }
    return (double)spent.tv_sec + 1e-9 * (double)spent.tv_nsec;
}

double ingot_platform_process_seconds(void) {
    struct timespec spent;
    return clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent) == 0 ? (double)spent.tv_sec + 1e-9 * (double)spent.tv_nsec
                                                                : 0.0;
}

static void *thread_entry(void *argument) {
    ingot_thread *thread = argument;
    thread->function(thread->argument);
    return NULL;
}

ingot_status ingot_platform_thread_start(ingot_thread_fn function, void *argument, ingot_thread **thread) {
    ingot_thread *created = malloc(sizeof *created);
    if (created == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a thread");
    }
    created->function = function;
    created->argument = argument;
    int problem = pthread_create(&created->handle, NULL, thread_entry, created);
    if (problem != 0) {
        free(created);
        return ingot_fail(INGOT_ERROR_THREADS, "cannot start a thread: %s", strerror(problem));
    }
    *thread = created;
    return INGOT_OK;
}

void ingot_platform_thread_join(ingot_thread *thread) {
    if (thread != NULL) {
        pthread_join(thread->handle, NULL);
        free(thread);
    }
}

void ingot_platform_yield(void) { sched_yield(); }

void ingot_platform_wait(_Atomic uint32_t *word, uint32_t expected) {
    /* A bounded sleep: a lost wake costs 50 ms, never a hang. */
    /* In longs, as this call takes it: a 32-bit C library may have a wider timespec. */
    const long limit[2] = {0, 50 * 1000 * 1000};
    syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, expected, limit, NULL, 0);
}

void ingot_platform_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
