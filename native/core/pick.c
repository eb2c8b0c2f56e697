/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pick.h"

#include <math.h>
#include <string.h>

/* A logit that is no number, or infinite, is better than all others: choosing among them must find it. */
static bool better(ingot_pick a, ingot_pick b) {
    bool a_sane = a.logit < INFINITY, b_sane = b.logit < INFINITY;
    if (a_sane != b_sane) {
        return b_sane;
    }
    if (a_sane && a.logit != b.logit) {
        return a.logit > b.logit;
    }
    return a.id < b.id;
}

/* A heap whose root is the worst. */
static void sift(ingot_pick *picks, uint32_t root, uint32_t count) {
    for (uint32_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        child += child + 1 < count && better(picks[child], picks[child + 1]);
        if (!better(picks[root], picks[child])) {
            return;
        }
        ingot_pick moved = picks[root];
        picks[root] = picks[child];
        picks[child] = moved;
        root = child;
    }
}

static void insert(ingot_pick *picks, uint32_t *count, uint32_t k, ingot_pick pick) {
    if (*count < k) {
        picks[(*count)++] = pick;
        for (uint32_t root = *count == k ? k / 2 : 0; root-- > 0;) {
            sift(picks, root, k);
        }
    } else if (better(pick, picks[0])) {
        picks[0] = pick;
        sift(picks, 0, k);
    }
}

bool ingot_pick_possible(const ingot_session *session, const ingot_sampling *config, uint32_t rows) {
    const ingot_model *model = session->model;
    const ingot_step *head = &model->steps[model->step_count - 1];
    bool few = config->temperature == 0.0 || (config->top_k > 0 && config->top_k <= INGOT_PICK_MOST);
    return few && config->repetition_penalty == 1.0 && rows <= INGOT_PICK_ROWS && head->opcode == INGOT_OPCODE_LINEAR &&
           head->part_count == 1 && head->epilogue == INGOT_EPILOGUE_NONE &&
           head->outputs[0] == model->file.step_output;
}

void ingot_pick_begin(ingot_session *session, uint32_t k) {
    session->pick_count = k;
    for (uint32_t thread = 0; thread < session->most_threads && k != 0; thread++) {
        memset(session->areas[thread].picked, 0, INGOT_PICK_ROWS * sizeof(uint32_t));
    }
}

void ingot_pick_take(const ingot_session *session, const ingot_thread_area *area, uint32_t row, const float *logits,
                     uint32_t first_id, uint32_t count) {
    const uint32_t k = session->pick_count, vocabulary = session->model->file.plan->vocabulary;
    uint32_t known = first_id < vocabulary ? vocabulary - first_id : 0;
    count = count < known ? count : known;
    ingot_pick *picks = area->picks + (size_t)row * INGOT_PICK_MOST;
    for (uint32_t i = 0; i < count; i++) {
        if (area->picked[row] < k || !(logits[i] <= picks[0].logit)) {
            insert(picks, &area->picked[row], k, (ingot_pick){logits[i], (int32_t)(first_id + i)});
        }
    }
}

void ingot_pick_collect(ingot_session *session, uint32_t row) {
    ingot_sampler *sampler = &session->sampler;
    ingot_pick best[INGOT_PICK_MOST];
    uint32_t kept = 0;
    for (uint32_t thread = 0; thread < session->most_threads; thread++) {
        const ingot_thread_area *area = &session->areas[thread];
        for (uint32_t i = 0; i < area->picked[row]; i++) {
            insert(best, &kept, session->pick_count, area->picks[(size_t)row * INGOT_PICK_MOST + i]);
        }
    }
    for (uint32_t i = 0; i < kept; i++) {
        sampler->values[i] = best[i].logit;
        sampler->ids[i] = best[i].id;
    }
    sampler->count = kept;
    ingot_sample_sort(sampler);
}
