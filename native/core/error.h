/* SPDX-License-Identifier: Apache-2.0 */
/* Errors are set where they are found: a status, and a text for ingot_last_error() on this thread. */
#ifndef INGOT_ERROR_H
#define INGOT_ERROR_H

#include <stdint.h>

#include "ingot.h"

enum { INGOT_ERROR_BYTES = 256 };

#if defined(__GNUC__)
#define INGOT_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define INGOT_PRINTF(text, first)
#endif

/** Sets this thread's message and returns status. Control characters become '?'. */
ingot_status ingot_fail(ingot_status status, const char *format, ...) INGOT_PRINTF(2, 3);
/** The same for a file that breaks a rule (enum ingot_rule). */
ingot_status ingot_fail_rule(ingot_status status, uint32_t rule, const char *format, ...) INGOT_PRINTF(3, 4);

/** Copies this thread's message, to carry it to the thread that must report it. */
void ingot_error_copy(char out[INGOT_ERROR_BYTES]);
/** Sets the message of another thread on this one; status INGOT_OK leaves all as it is. */
void ingot_error_restore(ingot_status status, const char *message);

/** Adds a line to the log that ingot_log_drain() empties; dropped when the log is full. */
void ingot_log(const char *message);

#endif
