/* SPDX-License-Identifier: Apache-2.0 */
/* Shared objects that are loaded when they are asked for, on all systems with dlopen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "platform/platform.h"

ingot_status ingot_platform_own_folder(char *folder, size_t size) {
    static const char here = 0;
    Dl_info info;
    const bool known = dladdr(&here, &info) != 0 && info.dli_fname != NULL;
    const char *slash = known ? strrchr(info.dli_fname, '/') : NULL;
    const int length = slash == NULL ? 1 : (int)(slash - info.dli_fname);
    const int used = snprintf(folder, size, "%.*s", length, slash == NULL ? "." : info.dli_fname);
    return used >= 0 && (size_t)used < size ? INGOT_OK : ingot_fail(INGOT_ERROR_IO, "the library's path is too long");
}

ingot_status ingot_platform_load(const char *path, const char *symbol, void **library, void **function) {
    /* Drivers leave threads behind: their code stays. */
    *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (*library == NULL) {
        return ingot_fail(INGOT_ERROR_NO_BACKEND, "no such backend: %.400s", dlerror());
    }
    *function = dlsym(*library, symbol);
    if (*function == NULL) {
        dlclose(*library);
        return ingot_fail(INGOT_ERROR_NO_BACKEND, "'%.200s' is no backend: it has no %s", path, symbol);
    }
    return INGOT_OK;
}

void ingot_platform_unload(void *library) {
    if (library != NULL) {
        dlclose(library);
    }
}

int ingot_platform_open_same(const char *path, const uint8_t *start, size_t size) {
    uint8_t found[256];
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (descriptor < 0 || size > sizeof found) {
        ingot_platform_close(descriptor);
        return -1;
    }
    if (pread(descriptor, found, size, 0) != (ssize_t)size || memcmp(found, start, size) != 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

void ingot_platform_close(int descriptor) {
    if (descriptor >= 0) {
        close(descriptor);
    }
}
