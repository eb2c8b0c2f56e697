/* SPDX-License-Identifier: Apache-2.0 */
/* Streams token ids without Python: reads a prompt's ids from a text file, writes the likeliest
 * next ids to standard output, one per line, as they come.
 *   cc -std=c11 -I native/include stream.c -o stream -L BUILD -lingot -Wl,-rpath,BUILD
 *   ./stream smol.ingot prompt_ids.txt 32
 */
#include <ingot.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_PROMPT = 4096 };

static uint32_t read_ids(const char *path, int32_t *ids) {
    FILE *file = fopen(path, "r");
    uint32_t count = 0;
    while (file != NULL && count < MAX_PROMPT && fscanf(file, "%d", &ids[count]) == 1) {
        count++;
    }
    if (file != NULL) {
        fclose(file);
    }
    return count;
}

/* Each step feeds what was chosen before and chooses the next; temperature 0 takes the likeliest. */
static ingot_status stream(ingot_session *session, const int32_t *ids, uint32_t count, uint32_t length) {
    const ingot_sampling greedy = {
        .struct_size = sizeof greedy, .temperature = 0.0, .top_p = 1.0, .repetition_penalty = 1.0};
    ingot_status status = INGOT_OK;
    int32_t next = 0;
    for (uint32_t index = 0; status == INGOT_OK && index < length; index++) {
        uint32_t chosen = 0;
        status = ingot_session_step(session, ids, count, 0, &greedy, NULL, 0, &next, &chosen);
        if (status == INGOT_OK) {
            printf("%d\n", next);
            fflush(stdout);
        }
        ids = &next;
        count = 1;
    }
    return status;
}

int main(int argc, char **argv) {
    static int32_t ids[MAX_PROMPT];
    if (argc != 4) {
        fprintf(stderr, "usage: %s FILE.ingot PROMPT_IDS.txt LENGTH\n", argv[0]);
        return 2;
    }
    uint32_t count = read_ids(argv[2], ids);
    ingot_model *model = NULL;
    ingot_session *session = NULL;
    ingot_status status = ingot_model_open(argv[1], &model);
    if (status == INGOT_OK) {
        status = ingot_session_create(model, NULL, &session);
    }
    if (status == INGOT_OK) {
        status = stream(session, ids, count, (uint32_t)strtoul(argv[3], NULL, 10));
    }
    if (status != INGOT_OK) {
        fprintf(stderr, "%s: %s\n", ingot_status_name(status), ingot_last_error());
    }
    ingot_session_destroy(session);
    ingot_model_close(model);
    return status == INGOT_OK ? 0 : 1;
}
