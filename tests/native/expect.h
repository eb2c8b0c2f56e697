/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of the C interface with the status that each must give; each program has its own counts. */
#ifndef INGOT_TESTS_EXPECT_H
#define INGOT_TESTS_EXPECT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"

static const char MARKER[] = "nothing failed yet";
static uint32_t made, wrong;
static uint32_t planted; /* the call that is said to give another status; 0: none */

static void expect(ingot_status expected, ingot_status found, const char *call, int line) {
    const char *message = ingot_last_error();
    const bool said = found == INGOT_OK || (message[0] != '\0' && strcmp(message, MARKER) != 0);
    expected = planted != 0 && made == planted ? INGOT_ERROR_INTERNAL : expected;
    made++;
    if (found != expected || !said) {
        wrong++;
        printf("FAIL line %d: %s: %s, expected %s (%s)\n", line, call, ingot_status_name(found),
               ingot_status_name(expected), message);
    }
}

#define EXPECT(name, call)                             \
    do {                                               \
        (void)ingot_fail(INGOT_OK, "%s", MARKER);      \
        expect(INGOT_##name, (call), #call, __LINE__); \
    } while (0)
#define REFUSED(call) EXPECT(ERROR_INVALID_ARGUMENT, call)

/* Says how it went. @return the exit status. */
static int concluded(void) {
    printf("%s   %u calls, each with its status and a message\n", wrong == 0 ? "ok" : "FAIL", made - wrong);
    return wrong == 0 ? 0 : 1;
}

#endif
