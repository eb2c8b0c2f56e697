/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds a prompt of PROMPT tokens and then COUNT tokens one by one, on one thread, without sampling:
 * the difference between two counts is what decoding costs. Usage: decode FILE PROMPT COUNT */
#include <stdio.h>
#include <stdlib.h>

#include "ingot.h"

enum { PROMPT_MOST = 4096 };

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, ingot_last_error());
    return 1;
}

static int feed(ingot_session *session, uint32_t rows, uint32_t prompt, uint32_t count) {
    int32_t tokens[PROMPT_MOST];
    for (uint32_t i = 0; i < prompt; i++) tokens[i] = (int32_t)(i % rows);
    if (prompt > 0 && ingot_session_eval(session, tokens, prompt, 1) != INGOT_OK) return failed("prompt");
    for (uint32_t i = 0; i < count; i++) {
        const int32_t token = (int32_t)((prompt + i) % rows);
        if (ingot_session_eval(session, &token, 1, 1) != INGOT_OK) return failed("decode");
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: decode FILE PROMPT COUNT\n"), 2;
    const uint32_t prompt = (uint32_t)strtoul(argv[2], NULL, 10), count = (uint32_t)strtoul(argv[3], NULL, 10);
    if (prompt > PROMPT_MOST) return fprintf(stderr, "PROMPT is at most %d\n", PROMPT_MOST), 2;
    ingot_model *model;
    if (ingot_model_open(argv[1], &model) != INGOT_OK) return failed("open");
    ingot_model_info info = {.struct_size = sizeof info};
    if (ingot_model_info_get(model, &info) != INGOT_OK) return failed("info");
    ingot_session_config config = {.struct_size = sizeof config, .threads = 1};
    ingot_session *session;
    if (ingot_session_create(model, &config, &session) != INGOT_OK) return failed("session");
    const int result = feed(session, info.embedding_rows, prompt, count);
    ingot_session_destroy(session);
    ingot_model_close(model);
    return result;
}
