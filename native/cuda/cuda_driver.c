/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* secure_getenv */
#include "cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char message[512];

ingot_status ingot_cuda_fail(ingot_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return status;
}

const char *ingot_cuda_last_error(void) { return message; }

ingot_status ingot_cuda_check(const ingot_cuda_driver *driver, cu_result result, const char *what) {
    const char *name = "CUDA_ERROR", *text = "";
    if (result == 0) {
        return INGOT_OK;
    }
    (void)driver->error_name(result, &name);
    (void)driver->error_string(result, &text);
    return ingot_cuda_fail(result == CU_OUT_OF_MEMORY ? INGOT_ERROR_OUT_OF_MEMORY : INGOT_ERROR_HARDWARE, "%s: %s, %s",
                           what, name, text);
}

ingot_status ingot_cuda_settle(const ingot_cuda_driver *driver, cu_result result, const char *what) {
    return ingot_cuda_check(driver, result == 0 ? driver->stream_synchronize(NULL) : result, what);
}

static ingot_cuda_driver own_driver;
static char missing[400]; /* why there is none */
static pthread_once_t opened = PTHREAD_ONCE_INIT;

/* Functions that the library has, by name; the first that it lacks, or NULL. */
static const char *find_functions(void *library) {
#define FIND(field, symbol, parameters)                           \
    *(void **)(void *)&own_driver.field = dlsym(library, symbol); \
    if (own_driver.field == NULL) {                               \
        return symbol;                                            \
    }
    INGOT_CUDA_FUNCTIONS(FIND)
#undef FIND
    return NULL;
}

static void open_driver(void) {
    const char *named = secure_getenv("INGOT_CUDA_DRIVER");
    const char *name = named != NULL && named[0] != 0 ? named : "libcuda.so.1";
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        snprintf(missing, sizeof missing, "no CUDA driver: %s", why != NULL ? why : name);
        return;
    }
    const char *absent = find_functions(library);
    if (absent != NULL) {
        snprintf(missing, sizeof missing, "the CUDA driver %s is too old: it has no %s", name, absent);
        return;
    }
    cu_result result = own_driver.init(0);
    if (result == 0) result = own_driver.driver_version(&own_driver.version);
    if (result == 0) result = own_driver.device_count(&own_driver.devices);
    if (result != 0) {
        const char *text = "";
        (void)own_driver.error_name(result, &text);
        snprintf(missing, sizeof missing, "the CUDA driver %s does not start: %s", name, text);
        return;
    }
    own_driver.emulated = dlsym(library, "ingot_cuda_emulated") != NULL;
}

const ingot_cuda_driver *ingot_cuda_driver_open(void) {
    pthread_once(&opened, open_driver);
    if (missing[0] != 0) {
        (void)ingot_cuda_fail(INGOT_ERROR_HARDWARE, "%s", missing);
        return NULL;
    }
    return &own_driver;
}
