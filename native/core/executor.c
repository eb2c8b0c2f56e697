/* SPDX-License-Identifier: Apache-2.0 */
#include "core/executor.h"

#include "core/float_mode.h"
#include "core/ops.h"

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
