/* SPDX-License-Identifier: Apache-2.0 */
/* Puts what the library maps onto the heap, where ASan sees a byte too far and LSan what is not given back.
 * Linked with --wrap for the four functions; without it the platform's own are used. */
#ifndef WATCHED_MEMORY_H
#define WATCHED_MEMORY_H

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "platform/platform.h"

enum { WATCHED_MOST = 64 << 20, WATCHED_PAGE = 4096 };

#if defined(INGOT_FUZZ_WRAP)
ingot_status __wrap_ingot_platform_allocate(uint64_t size, void **memory);
void __wrap_ingot_platform_release(void *memory, uint64_t size);

ingot_status __wrap_ingot_platform_allocate(uint64_t size, void **memory) {
    void *pages = NULL;
    if (size == 0 || size > WATCHED_MOST || posix_memalign(&pages, WATCHED_PAGE, size) != 0) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "the system gave no %llu bytes", (unsigned long long)size);
    }
    memset(pages, 0, size);
    *memory = pages;
    return INGOT_OK;
}

void __wrap_ingot_platform_release(void *memory, uint64_t size) {
    (void)size;
    free(memory);
}
#endif

#endif
