/* SPDX-License-Identifier: Apache-2.0 */
#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_message[INGOT_ERROR_BYTES];
static _Thread_local uint32_t last_rule;

/* A message quotes names from the file; a terminal must not act on them. */
static void write_message(const char *format, va_list arguments) {
    (void)vsnprintf(last_message, sizeof last_message, format, arguments);
    for (char *at = last_message; *at != '\0'; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte < 0x20 || byte == 0x7F) {
            *at = '?';
        }
    }
}

ingot_status ingot_fail(ingot_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_message(format, arguments);
    va_end(arguments);
    return status;
}

ingot_status ingot_fail_rule(ingot_status status, uint32_t rule, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_message(format, arguments);
    va_end(arguments);
    last_rule = rule;
    return status;
}

void ingot_error_copy(char out[INGOT_ERROR_BYTES]) { memcpy(out, last_message, sizeof last_message); }

void ingot_error_restore(ingot_status status, const char *message) {
    if (status != INGOT_OK) {
        (void)snprintf(last_message, sizeof last_message, "%s", message);
    }
}

const char *ingot_last_error(void) { return last_message; }

uint32_t ingot_last_rule(void) { return last_rule; }

const char *ingot_status_name(ingot_status status) {
    switch (status) {
        case INGOT_OK: return "ok";
        case INGOT_ERROR_INVALID_ARGUMENT: return "invalid argument";
        case INGOT_ERROR_WRONG_STATE: return "wrong state";
        case INGOT_ERROR_CANCELLED: return "cancelled";
        case INGOT_ERROR_CONTEXT_FULL: return "context full";
        case INGOT_ERROR_FORKED: return "forked";
        case INGOT_ERROR_BUSY: return "busy";
        case INGOT_ERROR_FORMAT: return "format";
        case INGOT_ERROR_VERSION: return "version";
        case INGOT_ERROR_CHECKSUM: return "checksum";
        case INGOT_ERROR_UNSUPPORTED: return "unsupported";
        case INGOT_ERROR_OUT_OF_MEMORY: return "out of memory";
        case INGOT_ERROR_MEMORY_LIMIT: return "memory limit";
        case INGOT_ERROR_IO: return "input or output";
        case INGOT_ERROR_THREADS: return "threads";
        case INGOT_ERROR_UNTRUSTED: return "untrusted";
        case INGOT_ERROR_FILE_LOST: return "file lost";
        case INGOT_ERROR_HARDWARE: return "hardware";
        case INGOT_ERROR_NO_BACKEND: return "no backend";
        case INGOT_ERROR_INTERNAL: return "internal";
    }
    return "unknown";
}
