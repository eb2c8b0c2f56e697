/* SPDX-License-Identifier: Apache-2.0 */
#include "core/lane.h"

#include "platform/platform.h"

static void meet_and_note(ingot_lane *lane) {
    double before = ingot_platform_seconds();
    ingot_pool_barrier(lane->session->pool, lane->thread);
    double now = ingot_platform_seconds();
    lane->writer->wait += now - before;
    lane->writer->end = now;
    lane->writer->barriers++;
    if (lane->writer != lane->mark) {
        lane->mark->begin = now;
    }
    for (ingot_profile_mark *idle = lane->writer + 1; idle < lane->mark; idle++) {
        idle->end = 0.0; /* another op has taken over its work */
    }
}

void ingot_lane_synchronize(ingot_lane *lane) {
    if (lane->stage == INGOT_STAGE_CLEAN) {
        return;
    }
    if (atomic_load_explicit(&lane->session->cancelled, memory_order_relaxed) != 0) {
        ingot_pool_request_stop(lane->session->pool);
    }
    if (lane->mark == NULL) {
        ingot_pool_barrier(lane->session->pool, lane->thread);
    } else {
        meet_and_note(lane);
    }
    lane->stage = INGOT_STAGE_CLEAN;
}

void ingot_lane_share(ingot_lane *lane) {
    ingot_lane_synchronize(lane);
    lane->writer = lane->mark;
    lane->stage = INGOT_STAGE_SHARED;
}

bool ingot_lane_take(const ingot_lane *lane, uint32_t items, uint32_t grain, uint32_t *begin, uint32_t *end) {
    return ingot_pool_take(lane->session->pool, items, grain, begin, end);
}

uint32_t ingot_lane_grain(const ingot_lane *lane, uint32_t m) {
    const uint32_t grain = lane->session->choices.grain[m > INGOT_DECODE_TOKENS];
    return grain != 0 ? grain : 1;
}

bool ingot_lane_serial(ingot_lane *lane) {
    if (lane->stage == INGOT_STAGE_SHARED) {
        ingot_lane_synchronize(lane);
    }
    lane->writer = lane->mark;
    lane->stage = INGOT_STAGE_SERIAL;
    return lane->thread == 0;
}

uint32_t ingot_row_count(const ingot_session *session, uint32_t tensor) {
    return session->places[tensor].selected ? session->selected : session->m;
}

float *ingot_row(const ingot_session *session, uint32_t tensor, uint32_t row) {
    const ingot_activation_place *place = &session->places[tensor];
    return place->data + (size_t)row * place->stride;
}

const float *ingot_constant(const ingot_session *session, uint32_t tensor) {
    const ingot_file *file = &session->model->file;
    return (const float *)(const void *)(file->weights + file->tensors[tensor].offset);
}
