/* SPDX-License-Identifier: Apache-2.0 */
/* The best logits: of what picks.comp left of each slice, or of all where more are wanted than that keeps. */
#include <math.h>
#include <string.h>

#include "vulkan/vulkan_session.h"

/* A logit that is no number, or infinite, is better than all others. */
static bool better(ingot_backend_pick a, ingot_backend_pick b) {
    const bool a_sane = a.logit < INFINITY, b_sane = b.logit < INFINITY;
    if (a_sane != b_sane) {
        return b_sane;
    }
    return a_sane && a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/* Sorted, the best first, `count` of at most `most`. */
static void insert(ingot_backend_pick *picks, uint32_t *count, uint32_t most, ingot_backend_pick pick) {
    if (*count == most && !better(pick, picks[most - 1])) {
        return;
    }
    uint32_t at = *count < most ? (*count)++ : most - 1;
    for (; at > 0 && better(pick, picks[at - 1]); at--) {
        picks[at] = picks[at - 1];
    }
    picks[at] = pick;
}

static ingot_status pick_from_all(ingot_vulkan_session *session, uint32_t row, ingot_backend_pick *picks,
                                  uint32_t *count) {
    const ingot_backend_program *program = &session->model->program;
    float piece[1024];
    uint64_t start;
    const ingot_vulkan_buffer *arena = ingot_vulkan_arena_of(session, program->output, &start);
    start += row * program->tensors[program->output].size;
    for (uint32_t first = 0; first < program->plan->vocabulary; first += 1024) {
        const uint32_t rest = program->plan->vocabulary - first, here = rest < 1024 ? rest : 1024;
        const ingot_status status = ingot_vulkan_copy_out(&session->model->device, &session->transfer, arena,
                                                          start + first * sizeof(float), piece, here * sizeof(float));
        if (status != INGOT_OK) {
            return status;
        }
        for (uint32_t i = 0; i < here; i++) {
            insert(picks, count, session->last.pick_count, (ingot_backend_pick){piece[i], (int32_t)(first + i)});
        }
    }
    return INGOT_OK;
}

ingot_status ingot_vulkan_picks(void *asked, uint32_t row, ingot_backend_pick *picks, uint32_t *count) {
    ingot_vulkan_session *session = asked;
    const uint32_t wanted = session->last.pick_count;
    const uint32_t vocabulary = session->model->program.plan->vocabulary;
    const uint32_t slices = (vocabulary + INGOT_VULKAN_SLICE - 1) / INGOT_VULKAN_SLICE;
    *count = 0;
    if (row >= session->last.selected || wanted == 0) {
        return ingot_vulkan_fail(INGOT_ERROR_INVALID_ARGUMENT, "row %u of %u, %u picks", row, session->last.selected,
                                 wanted);
    }
    if (wanted > INGOT_VULKAN_MOST_PICKS) {
        return ingot_vulkan_silent(pick_from_all(session, row, picks, count));
    }
    const uint8_t *from = session->picks.mapped + 8ull * row * slices * INGOT_VULKAN_MOST_PICKS;
    for (uint32_t slice = 0; slice < slices; slice++) {
        for (uint32_t i = 0; i < wanted; i++) {
            ingot_backend_pick pick;
            memcpy(&pick, from + 8ull * (slice * INGOT_VULKAN_MOST_PICKS + i), sizeof pick);
            if (pick.id >= 0) {
                insert(picks, count, wanted, pick);
            }
        }
    }
    return ingot_vulkan_silent(INGOT_OK);
}
