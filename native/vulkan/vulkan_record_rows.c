/* SPDX-License-Identifier: Apache-2.0 */
/* The ops that treat each row by itself. The words are those of norm.comp, rope.comp, elementwise.comp. */
#include "vulkan/vulkan_record.h"

ingot_status ingot_vulkan_record_norm(ingot_vulkan_recorder *recorder) {
    const ingot_backend_program *program = &recorder->session->model->program;
    const ingot_norm_parameters *parameters = ingot_vulkan_parameters(program, recorder->instruction);
    const ingot_instruction *instruction = &program->instructions[recorder->instruction];
    const uint32_t *operands = ingot_vulkan_operands(program, recorder->instruction);
    const bool centred = instruction->opcode == INGOT_OPCODE_LAYER_NORM;
    const ingot_vulkan_rows x = ingot_vulkan_rows_at(recorder, operands[0]);
    const ingot_vulkan_rows y = ingot_vulkan_rows_at(recorder, operands[instruction->inputs]);
    const ingot_vulkan_piece *weight = ingot_vulkan_constant(recorder, operands[1]);
    const ingot_vulkan_piece *bias = ingot_vulkan_constant(recorder, operands[centred ? 2 : 1]);
    return ingot_vulkan_emit(recorder, &(ingot_vulkan_dispatch){
                                           .shader = centred ? "layer_norm" : "rms_norm",
                                           .x = x.width / parameters->width,
                                           .y = x.count,
                                           .z = 1,
                                           .bindings = {[1] = x.binding,
                                                        [3] = ingot_vulkan_piece_binding(bias),
                                                        [4] = ingot_vulkan_piece_binding(weight),
                                                        [5] = y.binding},
                                           .words = {parameters->width, ingot_vulkan_bits(parameters->epsilon), x.base,
                                                     x.stride, y.base, y.stride, weight->shift / 4, bias->shift / 4},
                                       });
}

ingot_status ingot_vulkan_record_rope(ingot_vulkan_recorder *recorder) {
    const ingot_backend_program *program = &recorder->session->model->program;
    const ingot_rope_parameters *parameters = ingot_vulkan_parameters(program, recorder->instruction);
    const uint32_t *operands = ingot_vulkan_operands(program, recorder->instruction);
    const ingot_vulkan_piece *table = ingot_vulkan_constant(recorder, operands[2]);
    ingot_status status = INGOT_OK;
    for (uint32_t side = 0; side < 2 && status == INGOT_OK; side++) {
        const ingot_vulkan_rows x = ingot_vulkan_rows_at(recorder, operands[side]);
        const ingot_vulkan_rows y = ingot_vulkan_rows_at(recorder, operands[3 + side]);
        const uint32_t heads = x.width / parameters->head_size;
        const uint32_t units = parameters->head_size - parameters->rotary_size / 2;
        status = ingot_vulkan_emit(
            recorder, &(ingot_vulkan_dispatch){
                          .shader = "rope",
                          .slot = side,
                          .x = ingot_vulkan_ceiling(heads * units, 64),
                          .y = x.count,
                          .z = 1,
                          .bindings = {[1] = x.binding, [4] = ingot_vulkan_piece_binding(table), [5] = y.binding},
                          .words = {parameters->head_size, parameters->rotary_size,
                                    parameters->style == INGOT_ROPE_STYLE_INTERLEAVED, heads, x.base, x.stride, y.base,
                                    y.stride, table->shift / 4},
                      });
    }
    return status;
}

/* The number of the function in elementwise.comp. */
static uint32_t kind_of(const ingot_instruction *instruction, const void *parameters) {
    switch (instruction->opcode) {
        case INGOT_OPCODE_ACTIVATION:
            return ((const ingot_activation_parameters *)parameters)->kind - INGOT_ACTIVATION_KIND_SILU;
        case INGOT_OPCODE_ADD: return 3;
        case INGOT_OPCODE_MUL: return 4;
        case INGOT_OPCODE_SCALE: return 5;
        case INGOT_OPCODE_SOFT_CAP: return 6;
        default: return 7;
    }
}

/* b of add and mul may be a constant: one row for all. */
static ingot_vulkan_rows second_operand(const ingot_vulkan_recorder *recorder, uint32_t tensor) {
    const ingot_tensor_record *record = &recorder->session->model->program.tensors[tensor];
    if (record->role != INGOT_ROLE_CONSTANT) {
        return ingot_vulkan_rows_at(recorder, tensor);
    }
    const ingot_vulkan_piece *piece = ingot_vulkan_constant(recorder, tensor);
    return (ingot_vulkan_rows){.binding = ingot_vulkan_piece_binding(piece), .base = piece->shift / 4};
}

ingot_status ingot_vulkan_record_elementwise(ingot_vulkan_recorder *recorder) {
    const ingot_backend_program *program = &recorder->session->model->program;
    const ingot_instruction *instruction = &program->instructions[recorder->instruction];
    const void *parameters = ingot_vulkan_parameters(program, recorder->instruction);
    const uint32_t *operands = ingot_vulkan_operands(program, recorder->instruction);
    const ingot_vulkan_rows a = ingot_vulkan_rows_at(recorder, operands[0]);
    const ingot_vulkan_rows b = second_operand(recorder, operands[instruction->inputs > 1 ? 1 : 0]);
    const ingot_vulkan_rows y = ingot_vulkan_rows_at(recorder, operands[instruction->inputs]);
    const bool scalar = instruction->opcode == INGOT_OPCODE_SCALE || instruction->opcode == INGOT_OPCODE_SOFT_CAP;
    const float value = scalar ? ((const ingot_scalar_parameters *)parameters)->value : 0.0f;
    return ingot_vulkan_emit(recorder, &(ingot_vulkan_dispatch){
                                           .shader = "elementwise",
                                           .x = ingot_vulkan_ceiling(y.width, 128),
                                           .y = y.count,
                                           .z = 1,
                                           .bindings = {[1] = a.binding, [4] = b.binding, [5] = y.binding},
                                           .words = {kind_of(instruction, parameters), y.width, a.base, a.stride,
                                                     b.base, b.stride, y.base, y.stride, ingot_vulkan_bits(value)},
                                       });
}
