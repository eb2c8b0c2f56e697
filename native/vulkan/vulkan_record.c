/* SPDX-License-Identifier: Apache-2.0 */
#include "vulkan/vulkan_record.h"

#include <string.h>

static ingot_status prepare(ingot_vulkan_recorder *recorder, const ingot_vulkan_dispatch *dispatch,
                            VkDescriptorSet set) {
    ingot_vulkan_session *session = recorder->session;
    const ingot_vulkan_device *device = &session->model->device;
    VkDescriptorBufferInfo bindings[INGOT_VULKAN_BINDINGS];
    memcpy(bindings, dispatch->bindings, sizeof bindings);
    bindings[6] = ingot_vulkan_whole(&session->pass);
    for (uint32_t i = 0; i < INGOT_VULKAN_BINDINGS; i++) {
        if (bindings[i].buffer == VK_NULL_HANDLE) {
            bindings[i] = bindings[6];
        }
        if (bindings[i].range > device->range) {
            return ingot_vulkan_fail(
                INGOT_ERROR_MEMORY_LIMIT,
                "instruction %u (%s): %llu bytes to bind, the device takes %llu; a smaller chunk or"
                " capacity needs less",
                recorder->instruction, dispatch->shader, (unsigned long long)bindings[i].range,
                (unsigned long long)device->range);
        }
    }
    const uint32_t *most = device->traits.properties.limits.maxComputeWorkGroupCount;
    if (dispatch->x > most[0] || dispatch->y > most[1] || dispatch->z > most[2]) {
        return ingot_vulkan_fail(INGOT_ERROR_MEMORY_LIMIT,
                                 "instruction %u (%s): %u x %u x %u workgroups, more than the device takes; a smaller"
                                 " chunk needs fewer",
                                 recorder->instruction, dispatch->shader, dispatch->x, dispatch->y, dispatch->z);
    }
    const VkWriteDescriptorSet write = {.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                        .dstSet = set,
                                        .descriptorCount = INGOT_VULKAN_BINDINGS,
                                        .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                        .pBufferInfo = bindings};
    device->vk.UpdateDescriptorSets(device->device, 1, &write, 0, NULL);
    return INGOT_OK;
}

ingot_status ingot_vulkan_emit(ingot_vulkan_recorder *recorder, const ingot_vulkan_dispatch *dispatch) {
    ingot_vulkan_session *session = recorder->session;
    ingot_vulkan_device *device = &session->model->device;
    const ingot_vulkan_functions *vk = &device->vk;
    const VkDescriptorSet set = session->sets[session->slots[recorder->instruction] + dispatch->slot];
    VkPipeline pipeline;
    ingot_status status = ingot_vulkan_pipeline(device, dispatch->shader, dispatch->flags, &pipeline);
    if (status != INGOT_OK || recorder->commands == VK_NULL_HANDLE) {
        return status == INGOT_OK ? prepare(recorder, dispatch, set) : status;
    }
    if (dispatch->x == 0 || dispatch->y == 0 || dispatch->z == 0) {
        return INGOT_OK;
    }
    vk->CmdBindPipeline(recorder->commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    vk->CmdBindDescriptorSets(recorder->commands, VK_PIPELINE_BIND_POINT_COMPUTE, device->pipeline_layout, 0, 1, &set,
                              0, NULL);
    vk->CmdPushConstants(recorder->commands, device->pipeline_layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                         sizeof dispatch->words, dispatch->words);
    if (dispatch->indirect) {
        vk->CmdDispatchIndirect(recorder->commands, session->indirect.buffer, 16ull * recorder->instruction);
    } else {
        vk->CmdDispatch(recorder->commands, dispatch->x, dispatch->y, dispatch->z);
    }
    recorder->pending = true;
    return INGOT_OK;
}

void ingot_vulkan_barrier(ingot_vulkan_recorder *recorder) {
    if (!recorder->pending) {
        return;
    }
    const VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                     .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT,
                                     .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT |
                                                      VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_HOST_READ_BIT};
    recorder->session->model->device.vk.CmdPipelineBarrier(
        recorder->commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
        VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT | VK_PIPELINE_STAGE_HOST_BIT, 0, 1,
        &barrier, 0, NULL, 0, NULL);
    recorder->pending = false;
}

VkDescriptorBufferInfo ingot_vulkan_whole(const ingot_vulkan_buffer *buffer) {
    return (VkDescriptorBufferInfo){buffer->buffer, 0, buffer->size};
}

ingot_vulkan_rows ingot_vulkan_rows_at(const ingot_vulkan_recorder *recorder, uint32_t tensor) {
    const ingot_vulkan_session *session = recorder->session;
    const ingot_tensor_record *record = &session->model->program.tensors[tensor];
    const uint64_t alignment = session->model->device.alignment;
    uint64_t start;
    const ingot_vulkan_buffer *arena = ingot_vulkan_arena_of(session, tensor, &start);
    const uint64_t offset = start / alignment * alignment;
    const uint64_t bytes = record->size * ingot_vulkan_rows_of(session, tensor);
    /* Shaders may read up to 31 floats behind a row. */
    const uint64_t end = start + bytes + 128 < arena->size ? start + bytes + 128 : arena->size;
    return (ingot_vulkan_rows){
        .binding = {arena->buffer, offset, end - offset},
        .base = (uint32_t)((start - offset) / sizeof(float)),
        .stride = (uint32_t)(record->size / sizeof(float)),
        .width = (uint32_t)record->shape[1],
        .count = record->rows == INGOT_ROWS_SELECTED ? recorder->selected : recorder->m,
    };
}

const ingot_vulkan_piece *ingot_vulkan_constant(const ingot_vulkan_recorder *recorder, uint32_t tensor) {
    const ingot_vulkan_model *model = recorder->session->model;
    return &model->pieces[model->tensors[tensor].first];
}

uint32_t ingot_vulkan_slots_of(const ingot_vulkan_model *model, uint32_t instruction) {
    const ingot_instruction *what = &model->program.instructions[instruction];
    const uint32_t *operands = ingot_vulkan_operands(&model->program, instruction);
    uint32_t slots = 3;
    for (uint32_t i = 0; i < what->inputs; i++) {
        slots += model->tensors[operands[i]].count;
    }
    return model->takes[instruction] ? slots : 0;
}

/* Instructions on no rows are left out; while sets are prepared none is. */
static bool has_rows(const ingot_vulkan_recorder *recorder) {
    const ingot_backend_program *program = &recorder->session->model->program;
    const ingot_instruction *instruction = &program->instructions[recorder->instruction];
    const uint32_t output = ingot_vulkan_operands(program, recorder->instruction)[instruction->inputs];
    return recorder->selected != 0 || program->tensors[output].rows != INGOT_ROWS_SELECTED;
}

static ingot_status record_instruction(ingot_vulkan_recorder *recorder) {
    switch (recorder->session->model->program.instructions[recorder->instruction].opcode) {
        case INGOT_OPCODE_EMBED: return ingot_vulkan_record_embed(recorder);
        case INGOT_OPCODE_LINEAR: return ingot_vulkan_record_linear(recorder);
        case INGOT_OPCODE_RMS_NORM:
        case INGOT_OPCODE_LAYER_NORM: return ingot_vulkan_record_norm(recorder);
        case INGOT_OPCODE_ROPE: return ingot_vulkan_record_rope(recorder);
        case INGOT_OPCODE_ATTENTION: return ingot_vulkan_record_attention(recorder);
        default: return ingot_vulkan_record_elementwise(recorder);
    }
}

static ingot_status record_picks(ingot_vulkan_recorder *recorder) {
    const ingot_vulkan_session *session = recorder->session;
    const ingot_backend_program *program = &session->model->program;
    const ingot_vulkan_rows logits = ingot_vulkan_rows_at(recorder, program->output);
    recorder->instruction = program->instruction_count; /* whose slot is behind all others' */
    return ingot_vulkan_emit(
        recorder, &(ingot_vulkan_dispatch){
                      .shader = "picks",
                      .x = ingot_vulkan_ceiling(program->plan->vocabulary, INGOT_VULKAN_SLICE),
                      .y = logits.count,
                      .z = 1,
                      .bindings = {[1] = logits.binding, [5] = ingot_vulkan_whole(&session->picks)},
                      .words = {program->plan->vocabulary, logits.base, logits.stride, INGOT_VULKAN_MOST_PICKS},
                  });
}

ingot_status ingot_vulkan_record_range(ingot_vulkan_recorder *recorder, uint32_t first, uint32_t count) {
    const ingot_backend_program *program = &recorder->session->model->program;
    ingot_status status = INGOT_OK;
    bool has_logits = false;
    for (uint32_t i = first; i < first + count && status == INGOT_OK; i++) {
        recorder->instruction = i;
        if (!recorder->session->model->takes[i] || !has_rows(recorder)) {
            continue;
        }
        ingot_vulkan_barrier(recorder);
        status = record_instruction(recorder);
        const uint32_t *outputs = ingot_vulkan_operands(program, i) + program->instructions[i].inputs;
        has_logits = has_logits || outputs[0] == program->output;
    }
    ingot_vulkan_barrier(recorder);
    if (status == INGOT_OK && has_logits) {
        status = record_picks(recorder);
        ingot_vulkan_barrier(recorder);
    }
    return status;
}
