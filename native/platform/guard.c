/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "platform/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/error.h"

/* The system call itself: nothing that wraps mmap() has to be safe in a signal handler. */
#if defined(SYS_mmap2)
#define SYSTEM_MMAP SYS_mmap2
#else
#define SYSTEM_MMAP SYS_mmap
#endif

enum { MOST_GUARDS = 64 };

/* begin is 0 while the slot is free; it is set last and cleared first, so that the handler needs no lock. */
struct ingot_guard {
    _Atomic uintptr_t begin;
    _Atomic uintptr_t end;
    _Atomic uint32_t lost;
};

static ingot_guard guards[MOST_GUARDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows; the handler only reads it */
static uint32_t guard_count;
static bool standing; /* the handler is in the chain, at its head or below somebody else's */
static struct sigaction before;
static uintptr_t page_bytes;

static ingot_guard *find_guard(uintptr_t address) {
    for (uint32_t index = 0; index < MOST_GUARDS; index++) {
        const uintptr_t begin = atomic_load(&guards[index].begin);
        if (begin != 0 && address >= begin && address < atomic_load(&guards[index].end)) {
            return &guards[index];
        }
    }
    return NULL;
}

/* A page at a time: pages that the library keeps privately within the mapping stay, and bad sectors stay few. */
static bool replace_page(uintptr_t address) {
    ingot_guard *guard = find_guard(address);
    if (guard == NULL) {
        return false;
    }
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (syscall(SYSTEM_MMAP, address - address % page_bytes, page_bytes, PROT_READ, flags, -1, 0) == -1) {
        return false;
    }
    atomic_store(&guard->lost, 1);
    return true;
}

/* What would have happened without us. */
static void pass_on(int number, siginfo_t *info, void *context) {
    const bool sent = info->si_code <= 0; /* by a process, no fault */
    const bool ignored = before.sa_handler == SIG_IGN;
    if (ignored && sent) {
        return;
    }
    if (!ignored && before.sa_handler != SIG_DFL) {
        if ((before.sa_flags & SA_SIGINFO) != 0) {
            before.sa_sigaction(number, info, context);
        } else {
            before.sa_handler(number);
        }
        return;
    }
    struct sigaction standard = {.sa_handler = SIG_DFL};
    (void)sigaction(number, &standard, NULL);
    (void)raise(number); /* blocked until we return */
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
    const int kept = errno;
    if (info->si_code != BUS_ADRERR || !replace_page((uintptr_t)info->si_addr)) {
        pass_on(number, info, context);
    }
    errno = kept;
}

static ingot_status install(void) {
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    /* Asked for first: the new handler may be needed before sigaction() has returned. */
    if (sigaction(SIGBUS, NULL, &before) != 0) {
        return ingot_fail(INGOT_ERROR_IO, "the system does not tell its handler of SIGBUS: %s", strerror(errno));
    }
    struct sigaction ours = {.sa_sigaction = on_bus_error, .sa_mask = before.sa_mask};
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | (before.sa_flags & (SA_NODEFER | SA_RESTART));
    if (sigaction(SIGBUS, &ours, NULL) != 0) {
        return ingot_fail(INGOT_ERROR_IO, "the system takes no handler of SIGBUS: %s", strerror(errno));
    }
    return INGOT_OK;
}

/* Whoever came after us and calls us keeps doing so: then the handler stays, finds no guard and passes on. Installed
 * above them a second time, it and they would call each other for ever. */
static bool uninstall(void) {
    struct sigaction present;
    const bool ours = sigaction(SIGBUS, NULL, &present) == 0 && (present.sa_flags & SA_SIGINFO) != 0 &&
                      present.sa_sigaction == on_bus_error;
    return ours && sigaction(SIGBUS, &before, NULL) == 0;
}

static ingot_status take_slot(const uint8_t *data, uint64_t size, ingot_guard **guard) {
    for (uint32_t index = 0; index < MOST_GUARDS; index++) {
        ingot_guard *slot = &guards[index];
        if (atomic_load(&slot->begin) == 0) {
            atomic_store(&slot->lost, 0);
            atomic_store(&slot->end, (uintptr_t)data + (uintptr_t)size);
            atomic_store(&slot->begin, (uintptr_t)data);
            *guard = slot;
            return INGOT_OK;
        }
    }
    return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "%d guarded files are open already: close one", MOST_GUARDS);
}

ingot_status ingot_guard_add(const uint8_t *data, uint64_t size, ingot_guard **guard) {
    pthread_mutex_lock(&lock);
    ingot_status status = standing ? INGOT_OK : install();
    standing = status == INGOT_OK;
    status = status == INGOT_OK ? take_slot(data, size, guard) : status;
    guard_count += status == INGOT_OK;
    pthread_mutex_unlock(&lock);
    return status;
}

bool ingot_guard_lost(const ingot_guard *guard) { return guard != NULL && atomic_load(&guard->lost) != 0; }

void ingot_guard_remove(ingot_guard *guard) {
    if (guard == NULL) {
        return;
    }
    pthread_mutex_lock(&lock);
    atomic_store(&guard->begin, 0);
    if (--guard_count == 0) {
        standing = !uninstall();
    }
    pthread_mutex_unlock(&lock);
}
