/* SPDX-License-Identifier: Apache-2.0 */
/* Decodes on demand and tells how long each token took, for tests/benchmarks/contention.py.
 *
 *   contention_driver FILE THREADS [--plant spin]
 *
 * Reads a count of tokens per line, decodes that many and answers with one line of microseconds per token.
 * --plant spin makes the threads wait by spinning alone, the policy that a busy machine punishes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/session.h"
#include "platform/platform.h"

enum { CONTEXT = 256 };

static int fail(const char *what) {
    printf("FAIL %s: %s\n", what, ingot_last_error());
    return 1;
}

static ingot_status decode(ingot_session *session, long count) {
    ingot_status status = INGOT_OK;
    for (long index = 0; index < count && status == INGOT_OK; index++) {
        if (ingot_session_position(session) >= CONTEXT) {
            status = ingot_session_truncate(session, 0);
        }
        const int32_t token = (int32_t)(index % 64 + 1);
        double start = ingot_platform_seconds();
        status = status == INGOT_OK ? ingot_session_eval(session, &token, 1, 1) : status;
        printf("%.1f ", (ingot_platform_seconds() - start) * 1e6);
    }
    printf("\n");
    fflush(stdout);
    return status;
}

int main(int count, char **arguments) {
    if (count < 3) {
        printf("usage: contention_driver FILE THREADS [--plant spin]\n");
        return 2;
    }
    ingot_model *model = NULL;
    if (ingot_model_open(arguments[1], &model) != INGOT_OK) {
        return fail("open");
    }
    ingot_session_config config = {
        .struct_size = sizeof config, .context = CONTEXT, .threads = (uint32_t)strtoul(arguments[2], NULL, 10)};
    ingot_session *session = NULL;
    if (ingot_session_create(model, &config, &session) != INGOT_OK) {
        return fail("session");
    }
    if (count > 4 && strcmp(arguments[3], "--plant") == 0 && strcmp(arguments[4], "spin") == 0) {
        ingot_pool_plant_spin(session->pool);
    }
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (decode(session, strtol(line, NULL, 10)) != INGOT_OK) {
            return fail("eval");
        }
    }
    ingot_session_destroy(session);
    ingot_model_close(model);
    return 0;
}
