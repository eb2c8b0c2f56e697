/* SPDX-License-Identifier: Apache-2.0 */
#include "core/executor.h"

#include "core/float_mode.h"
#include "core/ops.h"
#include "platform/platform.h"

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

static void begin_mark(ingot_lane *lane, uint32_t index) {
    const ingot_session *session = lane->session;
    lane->mark = &session->profile->marks[(size_t)lane->thread * session->model->step_count + index];
    lane->mark->begin = ingot_platform_seconds();
}

static void run_program(ingot_session *session, uint32_t thread) {
    const bool profiled = session->profile != NULL;
    ingot_lane lane = {.session = session, .area = &session->areas[thread], .thread = thread};
    for (uint32_t index = session->first; index < session->limit; index++) {
        const ingot_step *step = &session->model->steps[index];
        if (ingot_row_count(session, step->outputs[0]) != 0) {
            if (profiled) {
                begin_mark(&lane, index);
            }
            run_step(&lane, step);
            if (profiled) {
                lane.mark->end = ingot_platform_seconds();
            }
        }
        if (ingot_pool_leaves(session->pool, thread)) { /* its share of this phase is done */
            ingot_pool_leave(session->pool, thread);
            return;
        }
        if (ingot_pool_stopped(session->pool)) { /* changes only at a barrier: all threads leave at the same step */
            return;
        }
    }
    if (lane.mark != NULL) { /* the last instruction's barrier as well */
        ingot_lane_synchronize(&lane);
    }
}

void ingot_executor_run(void *argument, uint32_t thread) {
    uint64_t mode = ingot_float_mode_get();
    ingot_float_mode_set(INGOT_FLOAT_MODE_STANDARD);
    run_program(argument, thread);
    ingot_float_mode_set(mode);
}
