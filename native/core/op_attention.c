/* SPDX-License-Identifier: Apache-2.0 */
/* attention: append this pass's keys and values, then share out (KV head, run of tokens). */
#include "core/ops.h"

enum { TOKENS_OF_ITEM = 8 };

static void append_head(const ingot_session *session, const ingot_step *step, uint32_t head) {
    const ingot_state_place *place = &session->model->states[step->state_index];
    uint16_t *keys = session->keys[step->state_index] + (size_t)head * session->capacity * place->head_size;
    uint16_t *values = session->values[step->state_index] + (size_t)head * session->capacity * place->head_padded;
    for (uint32_t row = 0; row < session->m; row++) {
        ingot_attention_append(keys, values, place->head_size, place->head_padded, session->position + row,
                               ingot_row(session, step->inputs[1], row) + (size_t)head * place->head_size,
                               ingot_row(session, step->inputs[2], row) + (size_t)head * place->head_size);
    }
}

static void attend_tokens(const ingot_lane *lane, const ingot_step *step, uint32_t head, uint32_t begin, uint32_t end) {
    const ingot_session *session = lane->session;
    const ingot_attention_parameters *parameters = step->parameters;
    const ingot_state_place *place = &session->model->states[step->state_index];
    const uint32_t group = parameters->heads / parameters->kv_heads;
    const size_t first = (size_t)head * group * place->head_size;
    ingot_attention_args args = {
        .keys = session->keys[step->state_index] + (size_t)head * session->capacity * place->head_size,
        .values = session->values[step->state_index] + (size_t)head * session->capacity * place->head_padded,
        .head_size = place->head_size,
        .head_padded = place->head_padded,
        .scale = parameters->scale,
        .rows = (end - begin) * group,
        .group = group,
        .first_last = session->position + begin,
        .q = ingot_row(session, step->inputs[0], begin) + first,
        .q_stride = session->places[step->inputs[0]].stride,
        .out = ingot_row(session, step->outputs[0], begin) + first,
        .out_stride = session->places[step->outputs[0]].stride,
        .scratch = lane->area->attention,
    };
    session->model->rows.attention(&args);
}

void ingot_op_attention(ingot_lane *lane, const ingot_step *step) {
    const ingot_session *session = lane->session;
    const ingot_attention_parameters *parameters = step->parameters;
    const uint32_t heads = parameters->kv_heads, m = session->m;
    const uint32_t runs = (m + TOKENS_OF_ITEM - 1) / TOKENS_OF_ITEM;
    uint32_t begin, end;
    if (m > 1) {
        ingot_lane_share(lane);
        while (ingot_lane_take(lane, heads, 1, &begin, &end)) {
            for (uint32_t head = begin; head < end; head++) {
                append_head(session, step, head);
            }
        }
    }
    ingot_lane_share(lane);
    while (ingot_lane_take(lane, heads * runs, 1, &begin, &end)) {
        for (uint32_t item = begin; item < end; item++) {
            uint32_t head = item % heads, first = item / heads * TOKENS_OF_ITEM;
            if (m == 1) {
                append_head(session, step, head); /* whoever has the head appends for it */
            }
            attend_tokens(lane, step, head, first, first + TOKENS_OF_ITEM < m ? first + TOKENS_OF_ITEM : m);
        }
    }
}
