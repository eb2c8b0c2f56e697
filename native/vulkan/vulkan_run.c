/* SPDX-License-Identifier: Apache-2.0 */
/* A pass: what changes from one to the next is written to buffers, then commands recorded before are submitted. */
#include <string.h>

#include "vulkan/vulkan_record.h"

static void write_pass(ingot_vulkan_session *session, const ingot_backend_pass *pass) {
    const ingot_backend_program *program = &session->model->program;
    const ingot_vulkan_pass_head head = {pass->position, pass->m, pass->selected, pass->pick_count};
    memcpy(session->pass.mapped, &head, sizeof head);
    if (pass->tokens != NULL) {
        memcpy(session->pass.mapped + sizeof head, pass->tokens, pass->m * sizeof *pass->tokens);
    }
    for (uint32_t i = pass->first; i < pass->first + pass->count; i++) {
        if (program->instructions[i].opcode == INGOT_OPCODE_ATTENTION) {
            const VkDispatchIndirectCommand groups = ingot_vulkan_attention_groups(session, i, pass->m, pass->position);
            memcpy(session->indirect.mapped + 16ull * i, &groups, sizeof groups);
        }
    }
}

static ingot_status record(ingot_vulkan_session *session, const ingot_backend_pass *pass, VkCommandBuffer commands) {
    const ingot_vulkan_functions *vk = &session->model->device.vk;
    const VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    ingot_vulkan_recorder recorder = {
        .session = session, .commands = commands, .m = pass->m, .selected = pass->selected};
    ingot_status status = ingot_vulkan_check(vk->BeginCommandBuffer(commands, &begin), "vkBeginCommandBuffer");
    status = status == INGOT_OK ? ingot_vulkan_record_range(&recorder, pass->first, pass->count) : status;
    return status == INGOT_OK ? ingot_vulkan_check(vk->EndCommandBuffer(commands), "vkEndCommandBuffer") : status;
}

/* The recording of this shape of pass, or the one that was not used for longest. */
static ingot_vulkan_recording *find_recording(ingot_vulkan_session *session, const ingot_backend_pass *pass) {
    ingot_vulkan_recording *oldest = &session->recordings[0];
    for (uint32_t i = 0; i < INGOT_VULKAN_RECORDINGS; i++) {
        ingot_vulkan_recording *each = &session->recordings[i];
        if (each->first == pass->first && each->count == pass->count && each->m == pass->m &&
            each->selected == pass->selected) {
            return each;
        }
        oldest = each->used < oldest->used ? each : oldest;
    }
    oldest->m = 0;
    return oldest;
}

ingot_status ingot_vulkan_run(void *running, const ingot_backend_pass *pass) {
    ingot_vulkan_session *session = running;
    ingot_vulkan_recording *recording = find_recording(session, pass);
    ingot_status status = INGOT_OK;
    if (recording->m == 0) {
        status = record(session, pass, recording->commands);
    }
    if (status != INGOT_OK) {
        recording->m = 0;
        return ingot_vulkan_silent(status);
    }
    recording->first = pass->first;
    recording->count = pass->count;
    recording->m = pass->m;
    recording->selected = pass->selected;
    recording->used = ++session->passes;
    session->last = *pass;
    write_pass(session, pass);
    return ingot_vulkan_silent(ingot_vulkan_submit(&session->model->device, recording->commands, session->fence));
}

ingot_status ingot_vulkan_write(void *written, uint32_t tensor, uint32_t rows, const float *data, size_t stride) {
    ingot_vulkan_session *session = written;
    const ingot_tensor_record *record = &session->model->program.tensors[tensor];
    uint64_t start;
    const ingot_vulkan_buffer *arena = ingot_vulkan_arena_of(session, tensor, &start);
    ingot_status status = INGOT_OK;
    for (uint32_t row = 0; row < rows && status == INGOT_OK; row++) {
        status = ingot_vulkan_copy_in(&session->model->device, &session->transfer, arena, start + row * record->size,
                                      data + row * stride, record->shape[1] * sizeof(float));
    }
    return ingot_vulkan_silent(status);
}

ingot_status ingot_vulkan_read(void *from, uint32_t tensor, uint32_t rows, float *data, size_t stride) {
    ingot_vulkan_session *session = from;
    const ingot_tensor_record *record = &session->model->program.tensors[tensor];
    uint64_t start;
    const ingot_vulkan_buffer *arena = ingot_vulkan_arena_of(session, tensor, &start);
    ingot_status status = INGOT_OK;
    for (uint32_t row = 0; row < rows && status == INGOT_OK; row++) {
        status = ingot_vulkan_copy_out(&session->model->device, &session->transfer, arena, start + row * record->size,
                                       data + row * stride, record->shape[1] * sizeof(float));
    }
    return ingot_vulkan_silent(status);
}

/* Each attention keeps its share of all blocks in a buffer of its own. */
static ingot_status move_block(ingot_vulkan_session *session, uint32_t block, const uint8_t *in, uint8_t *out) {
    ingot_vulkan_device *device = &session->model->device;
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; i < session->model->program.instruction_count && status == INGOT_OK; i++) {
        const ingot_vulkan_state *state = &session->states[i];
        const uint64_t at = block * state->bytes;
        if (state->bytes == 0) {
            continue;
        }
        status = in != NULL ? ingot_vulkan_copy_in(device, &session->transfer, &state->buffer, at, in + state->offset,
                                                   state->bytes)
                            : ingot_vulkan_copy_out(device, &session->transfer, &state->buffer, at, out + state->offset,
                                                    state->bytes);
    }
    return ingot_vulkan_silent(status);
}

ingot_status ingot_vulkan_state_write(void *session, uint32_t block, const uint8_t *data) {
    return move_block(session, block, data, NULL);
}

ingot_status ingot_vulkan_state_read(void *session, uint32_t block, uint8_t *data) {
    return move_block(session, block, NULL, data);
}

void ingot_vulkan_memory(const void *asked, ingot_backend_memory *info) {
    const ingot_vulkan_session *session = asked;
    *info = (ingot_backend_memory){
        .weights_bytes = session->model->uploaded,
        .imported_bytes = session->model->imported,
        .arena_bytes = session->arenas[0].size + session->arenas[1].size,
        .scratch_bytes = session->scratch.size + session->partials.size + session->picks.size + session->pass.size +
                         session->indirect.size + session->transfer.staging.size,
        .state_bytes = session->state_bytes,
    };
}
