/* SPDX-License-Identifier: Apache-2.0 */
/* Slow and failing storage, and a small memory, for one program on the emulated board: preloaded into it, so that its
 * calls of the C library come here first. Only files below INGOT_LAB_PATH are touched. Reads of a mapping are not calls:
 * a slow file costs its time when it is mapped, and pages that fail raise SIGBUS, as those of a dying card do.
 *
 *   INGOT_LAB_PATH            folder
 *   INGOT_LAB_BYTES_PER_S     rate of reads and writes
 *   INGOT_LAB_DELAY_US        microseconds before each of them
 *   INGOT_LAB_READ_FAILS_AT   offset in a file from which reads give EIO
 *   INGOT_LAB_WRITE_FAILS_AFTER  bytes written in all, after which writes give ENOSPC
 *   INGOT_LAB_MEMORY          bytes that the system says it has */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

typedef struct settings {
    char path[PATH_MAX];
    int64_t bytes_per_s, delay_us, read_fails_at, write_fails_after, memory; /* -1: does not apply */
} settings;

static settings set = {.bytes_per_s = -1, .delay_us = -1, .read_fails_at = -1, .write_fails_after = -1, .memory = -1};
static _Atomic int64_t written;

static int64_t number(const char *name) {
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtoll(text, NULL, 10) : -1;
}

__attribute__((constructor)) static void read_settings(void) {
    const char *path = getenv("INGOT_LAB_PATH");
    set.bytes_per_s = number("INGOT_LAB_BYTES_PER_S");
    set.delay_us = number("INGOT_LAB_DELAY_US");
    set.read_fails_at = number("INGOT_LAB_READ_FAILS_AT");
    set.write_fails_after = number("INGOT_LAB_WRITE_FAILS_AFTER");
    set.memory = number("INGOT_LAB_MEMORY");
    if (path != NULL) snprintf(set.path, sizeof set.path, "%s", path);
}

/* Whether a descriptor is of a file below the folder. */
static bool ours(int descriptor) {
    char link[64], target[PATH_MAX];
    if (set.path[0] == '\0' || descriptor < 0) return false;
    const int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = readlink(link, target, sizeof target - 1);
    errno = saved;
    if (length <= 0) return false;
    target[length] = '\0';
    const size_t prefix = strlen(set.path);
    return strncmp(target, set.path, prefix) == 0 && (target[prefix] == '/' || target[prefix] == '\0');
}

static void wait_for(int64_t bytes) {
    int64_t us = set.delay_us > 0 ? set.delay_us : 0;
    if (set.bytes_per_s > 0) us += bytes * 1000000 / set.bytes_per_s;
    if (us <= 0) return;
    struct timespec time = {(time_t)(us / 1000000), (long)(us % 1000000 * 1000)};
    const int saved = errno;
    nanosleep(&time, NULL);
    errno = saved;
}

/* Bytes that a read at an offset may have; -1 if it fails at once. */
static int64_t readable(int64_t offset, size_t size) {
    const int64_t wanted = (int64_t)size;
    wait_for(wanted);
    if (set.read_fails_at < 0 || offset + wanted <= set.read_fails_at || wanted == 0) return wanted;
    if (offset >= set.read_fails_at) return errno = EIO, -1;
    return set.read_fails_at - offset;
}

/* Bytes that a write may have; -1 if the card is full. */
static int64_t writable(size_t size) {
    const int64_t wanted = (int64_t)size;
    wait_for(wanted);
    if (set.write_fails_after < 0) return wanted;
    const int64_t before = atomic_fetch_add(&written, wanted), left = set.write_fails_after - before;
    if (left >= wanted) return wanted;
    if (left <= 0) return errno = ENOSPC, -1;
    return left;
}

typedef ssize_t (*read_fn)(int, void *, size_t);
typedef ssize_t (*write_fn)(int, const void *, size_t);
typedef ssize_t (*pread_fn)(int, void *, size_t, off_t);
typedef ssize_t (*pread64_fn)(int, void *, size_t, off64_t);
typedef ssize_t (*pwrite_fn)(int, const void *, size_t, off_t);
typedef ssize_t (*pwrite64_fn)(int, const void *, size_t, off64_t);
typedef void *(*mmap_fn)(void *, size_t, int, int, int, off_t);
typedef void *(*mmap64_fn)(void *, size_t, int, int, int, off64_t);
typedef ssize_t (*sendfile_fn)(int, int, off_t *, size_t);
typedef ssize_t (*sendfile64_fn)(int, int, off64_t *, size_t);

EXPORT ssize_t read(int descriptor, void *into, size_t size) {
    if (ours(descriptor)) {
        const int64_t allowed = readable(lseek64(descriptor, 0, SEEK_CUR), size);
        if (allowed < 0) return -1;
        size = (size_t)allowed;
    }
    return REAL("read", read_fn)(descriptor, into, size);
}

EXPORT ssize_t pread(int descriptor, void *into, size_t size, off_t offset) {
    const int64_t allowed = ours(descriptor) ? readable(offset, size) : (int64_t)size;
    return allowed < 0 ? -1 : REAL("pread", pread_fn)(descriptor, into, (size_t)allowed, offset);
}

EXPORT ssize_t pread64(int descriptor, void *into, size_t size, off64_t offset) {
    const int64_t allowed = ours(descriptor) ? readable(offset, size) : (int64_t)size;
    return allowed < 0 ? -1 : REAL("pread64", pread64_fn)(descriptor, into, (size_t)allowed, offset);
}

EXPORT ssize_t write(int descriptor, const void *from, size_t size) {
    const int64_t allowed = ours(descriptor) ? writable(size) : (int64_t)size;
    return allowed < 0 ? -1 : REAL("write", write_fn)(descriptor, from, (size_t)allowed);
}

EXPORT ssize_t pwrite(int descriptor, const void *from, size_t size, off_t offset) {
    const int64_t allowed = ours(descriptor) ? writable(size) : (int64_t)size;
    return allowed < 0 ? -1 : REAL("pwrite", pwrite_fn)(descriptor, from, (size_t)allowed, offset);
}

EXPORT ssize_t pwrite64(int descriptor, const void *from, size_t size, off64_t offset) {
    const int64_t allowed = ours(descriptor) ? writable(size) : (int64_t)size;
    return allowed < 0 ? -1 : REAL("pwrite64", pwrite64_fn)(descriptor, from, (size_t)allowed, offset);
}

/* Copies inside the kernel pass no read and no write: refused, so that callers take those. */
EXPORT ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    if (ours(to) || ours(from)) return errno = EINVAL, -1;
    return REAL("sendfile", sendfile_fn)(to, from, offset, size);
}

EXPORT ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    if (ours(to) || ours(from)) return errno = EINVAL, -1;
    return REAL("sendfile64", sendfile64_fn)(to, from, offset, size);
}

EXPORT ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *into, size_t size, unsigned int flags) {
    if (ours(to) || ours(from)) return errno = EINVAL, -1;
    return (ssize_t)syscall(SYS_copy_file_range, from, at, to, into, size, flags);
}

/* Puts pages without storage over those that fail: an empty file has none, so that touching them is SIGBUS. */
static void *break_mapping(void *memory, size_t size, int64_t offset) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    int64_t good = set.read_fails_at > offset ? (set.read_fails_at - offset) / page * page : 0;
    if (memory == MAP_FAILED || set.read_fails_at < 0 || good >= (int64_t)size) return memory;
    const int empty = (int)syscall(SYS_memfd_create, "failed", 0u);
    if (empty < 0) return memory;
    void *from = (char *)memory + good;
    (void)REAL("mmap", mmap_fn)(from, size - (size_t)good, PROT_READ, MAP_SHARED | MAP_FIXED, empty, 0);
    close(empty);
    return memory;
}

EXPORT void *mmap(void *at, size_t size, int protection, int flags, int descriptor, off_t offset) {
    void *memory = REAL("mmap", mmap_fn)(at, size, protection, flags, descriptor, offset);
    if ((flags & MAP_ANONYMOUS) != 0 || !ours(descriptor)) return memory;
    wait_for((int64_t)size);
    return break_mapping(memory, size, offset);
}

EXPORT void *mmap64(void *at, size_t size, int protection, int flags, int descriptor, off64_t offset) {
    void *memory = REAL("mmap64", mmap64_fn)(at, size, protection, flags, descriptor, offset);
    if ((flags & MAP_ANONYMOUS) != 0 || !ours(descriptor)) return memory;
    wait_for((int64_t)size);
    return break_mapping(memory, size, offset);
}

EXPORT int sysinfo(struct sysinfo *info) {
    const int result = REAL("sysinfo", int (*)(struct sysinfo *))(info);
    if (result != 0 || set.memory < 0) return result;
    info->totalram = (unsigned long)(set.memory / 4096);
    info->freeram = info->totalram < info->freeram / 4096 * info->mem_unit ? info->totalram : info->freeram;
    info->mem_unit = 4096;
    info->bufferram = info->sharedram = info->totalswap = info->freeswap = info->totalhigh = info->freehigh = 0;
    return result;
}

EXPORT long sysconf(int name) {
    if (set.memory >= 0 && (name == _SC_PHYS_PAGES || name == _SC_AVPHYS_PAGES)) {
        return (long)(set.memory / REAL("sysconf", long (*)(int))(_SC_PAGESIZE));
    }
    return REAL("sysconf", long (*)(int))(name);
}
