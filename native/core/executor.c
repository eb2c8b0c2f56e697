/* SPDX-License-Identifier: Apache-2.0 */
#include "core/executor.h"

#include "core/float_mode.h"

void ingot_lane_synchronize(ingot_lane *lane) {
    if (lane->stage == INGOT_STAGE_CLEAN) {
        return;
    }
    if (atomic_load_explicit(&lane->session->cancelled, memory_order_relaxed) != 0) {
        ingot_pool_request_stop(lane->session->pool);
    }
    ingot_pool_barrier(lane->session->pool);
    lane->stage = INGOT_STAGE_CLEAN;
}

void ingot_lane_share(ingot_lane *lane) {
    ingot_lane_synchronize(lane);
    lane->stage = INGOT_STAGE_SHARED;
}

bool ingot_lane_take(const ingot_lane *lane, uint32_t items, uint32_t grain, uint32_t *begin, uint32_t *end) {
    return ingot_pool_take(lane->session->pool, items, grain, begin, end);
}

bool ingot_lane_serial(ingot_lane *lane) {
    if (lane->stage == INGOT_STAGE_SHARED) {
        ingot_lane_synchronize(lane);
    }
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

static void run_step(ingot_lane *lane, const ingot_step *step) {
    switch (step->opcode) {
        case INGOT_OPCODE_EMBED: ingot_op_embed(lane, step); break;
        case INGOT_OPCODE_RMS_NORM: ingot_op_rms_norm(lane, step); break;
        case INGOT_OPCODE_LAYER_NORM: ingot_op_layer_norm(lane, step); break;
        case INGOT_OPCODE_LINEAR: ingot_op_linear(lane, step); break;
        case INGOT_OPCODE_ROPE: ingot_op_rope(lane, step); break;
        case INGOT_OPCODE_ATTENTION: ingot_op_attention(lane, step); break;
        case INGOT_OPCODE_SELECT_LAST: ingot_op_select_last(lane, step); break;
        default: /* the validator let only known opcodes through; the rest are elementwise */
            ingot_op_elementwise(lane, step);
            break;
    }
}

static void run_program(ingot_session *session, uint32_t thread) {
    ingot_lane lane = {session, &session->areas[thread], thread, INGOT_STAGE_CLEAN};
    for (uint32_t index = 0; index < session->limit; index++) {
        const ingot_step *step = &session->model->steps[index];
        if (ingot_row_count(session, step->outputs[0]) != 0) {
            run_step(&lane, step);
        }
        if (ingot_pool_stopped(session->pool)) { /* changes only at a barrier: all threads leave at the same step */
            return;
        }
    }
}

void ingot_executor_run(void *argument, uint32_t thread) {
    uint64_t mode = ingot_float_mode_get();
    ingot_float_mode_set(INGOT_FLOAT_MODE_STANDARD);
    run_program(argument, thread);
    ingot_float_mode_set(mode);
}
