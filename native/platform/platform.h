/* SPDX-License-Identifier: Apache-2.0 */
/* Every operating-system call of the library. One file implements it per system. */
#ifndef INGOT_PLATFORM_H
#define INGOT_PLATFORM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ingot.h"

typedef struct ingot_thread ingot_thread;

/** Maps a regular file read-only, no byte beyond its end but the rest of the last page.
 * @param strict refuse a file that others than its owner may write, or that is not ours or the system's.
 * @return INGOT_ERROR_IO with the system's reason, INGOT_ERROR_UNTRUSTED. */
ingot_status ingot_platform_map(const char *path, bool strict, const uint8_t **data, uint64_t *size);
void ingot_platform_unmap(const uint8_t *data, uint64_t size);

/** Brings a part of a mapping into memory at once, which is cheaper than a fault for each run of pages. A hint: where the
 * system cannot, the pages come when they are touched. */
void ingot_platform_prefault(const uint8_t *data, uint64_t size);

/** Replaces the pages of a part of a mapping by private copies: what happens to the file no longer changes them.
 * @return INGOT_ERROR_OUT_OF_MEMORY. */
ingot_status ingot_platform_keep(const uint8_t *data, uint64_t size);

/** Gives the whole pages of a range back: memory reads as zeros then, a mapped file as before. @return bytes of them. */
uint64_t ingot_platform_forget(const void *memory, uint64_t size);

/** Zeroed pages of at least size bytes, committed when touched. @return INGOT_ERROR_OUT_OF_MEMORY. */
ingot_status ingot_platform_allocate(uint64_t size, void **memory);
void ingot_platform_release(void *memory, uint64_t size);

/** CPUs that this process may run on, as bits; at least one. */
void ingot_platform_affinity(uint64_t *mask, uint32_t words);
/** Restricts the calling thread to these CPUs. A hint: a mask that the system refuses changes nothing. */
void ingot_platform_pin(const uint64_t *mask, uint32_t words);
uint64_t ingot_platform_process(void);
double ingot_platform_seconds(void);

typedef void (*ingot_thread_fn)(void *argument);
/** Names the clock of this thread's CPU time, for any thread of the process; 0 if there is none. */
int64_t ingot_platform_thread_clock(void);
/** CPU seconds that a thread has had; 0 for clock 0. */
double ingot_platform_clock_seconds(int64_t clock);
/** CPU seconds of the whole process. */
double ingot_platform_process_seconds(void);
/** @return INGOT_ERROR_THREADS. */
ingot_status ingot_platform_thread_start(ingot_thread_fn function, void *argument, ingot_thread **thread);
void ingot_platform_thread_join(ingot_thread *thread);
void ingot_platform_yield(void);
/** Sleeps while *word == expected; may wake without cause. */
void ingot_platform_wait(_Atomic uint32_t *word, uint32_t expected);
void ingot_platform_wake_all(_Atomic uint32_t *word);

/** The folder of this library, for what is installed beside it. @return INGOT_ERROR_IO. */
ingot_status ingot_platform_own_folder(char *folder, size_t size);
/** Loads a library and finds a function in it. @return INGOT_ERROR_NO_BACKEND with the loader's reason. */
ingot_status ingot_platform_load(const char *path, const char *symbol, void **library, void **function);
void ingot_platform_unload(void *library);
/** A descriptor for reading `path`, if the file still begins with these bytes; -1 otherwise. */
int ingot_platform_open_same(const char *path, const uint8_t *start, size_t size);
void ingot_platform_close(int descriptor);

#endif
