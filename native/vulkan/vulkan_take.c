/* SPDX-License-Identifier: Apache-2.0 */
/* Which instructions this backend takes. */
#include <string.h>

#include "core/layout.h"
#include "vulkan/vulkan_model.h"

enum { MOST_HEAD = 256, MOST_GROUPS = 65535 };

static bool takes_weight(const ingot_tensor_record *record) {
    return ingot_layout_valid(record->dtype, record->layout) && record->size / 16 <= UINT32_MAX &&
           record->shape[0] <= (uint64_t)MOST_GROUPS * INGOT_TILE_ROWS;
}

static bool takes_linear(const ingot_backend_program *program, uint32_t index) {
    const ingot_linear_parameters *parameters = ingot_vulkan_parameters(program, index);
    const uint32_t *operands = ingot_vulkan_operands(program, index);
    for (uint32_t i = 0; i < parameters->weights; i++) {
        if (!takes_weight(&program->tensors[operands[1 + i]])) {
            return false;
        }
    }
    return parameters->epilogue == INGOT_EPILOGUE_NONE || program->instructions[index].flags == 0;
}

static bool takes_instruction(const ingot_backend_program *program, uint64_t range, uint32_t index) {
    const uint32_t *operands = ingot_vulkan_operands(program, index);
    switch (program->instructions[index].opcode) {
        case INGOT_OPCODE_LINEAR: return takes_linear(program, index);
        case INGOT_OPCODE_EMBED: /* rows of a table are found by their dense places */
            return takes_weight(&program->tensors[operands[1]]) &&
                   program->tensors[operands[1]].sparsity == INGOT_SPARSITY_DENSE;
        case INGOT_OPCODE_ROPE: return program->tensors[operands[2]].size <= range - INGOT_TENSOR_ALIGNMENT;
        case INGOT_OPCODE_ATTENTION: {
            const ingot_attention_parameters *parameters = ingot_vulkan_parameters(program, index);
            return parameters->head_size <= MOST_HEAD;
        }
        case INGOT_OPCODE_RMS_NORM:
        case INGOT_OPCODE_LAYER_NORM:
        case INGOT_OPCODE_ACTIVATION:
        case INGOT_OPCODE_ADD:
        case INGOT_OPCODE_MUL:
        case INGOT_OPCODE_SCALE:
        case INGOT_OPCODE_SOFT_CAP:
        case INGOT_OPCODE_SELECT_LAST: return true;
        default: return false;
    }
}

void ingot_vulkan_take(const ingot_backend_program *program, uint64_t range, uint8_t *takes) {
    bool all_attentions = true;
    for (uint32_t i = 0; i < program->instruction_count; i++) {
        takes[i] = takes_instruction(program, range, i);
        all_attentions = all_attentions && (takes[i] || program->instructions[i].opcode != INGOT_OPCODE_ATTENTION);
    }
    for (uint32_t i = 0; i < program->instruction_count && !all_attentions; i++) {
        takes[i] = takes[i] && program->instructions[i].opcode != INGOT_OPCODE_ATTENTION;
    }
}
