/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing a session. */
#include "vulkan/vulkan_session.h"

#include <stdlib.h>
#include <string.h>

#include "vulkan/vulkan_record.h"

enum { LEAST_STAGING = 1 << 20 };

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

const ingot_vulkan_buffer *ingot_vulkan_arena_of(const ingot_vulkan_session *session, uint32_t tensor,
                                                 uint64_t *start) {
    const ingot_tensor_record *record = &session->model->program.tensors[tensor];
    *start = record->offset * ingot_vulkan_rows_of(session, tensor);
    return &session->arenas[record->rows == INGOT_ROWS_SELECTED];
}

uint32_t ingot_vulkan_rows_of(const ingot_vulkan_session *session, uint32_t tensor) {
    const bool selected = session->model->program.tensors[tensor].rows == INGOT_ROWS_SELECTED;
    return selected ? session->config.logits_rows : session->config.chunk;
}

/* Sizes that follow from the config; scratch has whole kernels of rows. */
static void measure(ingot_vulkan_session *session) {
    const ingot_backend_session_config *config = &session->config;
    const uint32_t most = larger(config->chunk, config->logits_rows);
    const uint64_t rows = ingot_vulkan_ceiling(most, INGOT_VULKAN_FEW) * INGOT_VULKAN_FEW;
    const uint64_t wide = larger(session->model->widest_k, 128);
    session->scratch_codes = (rows * wide + 255) / 256 * 256;
    session->scratch_groups = (rows * wide / 32 * 8 + 255) / 256 * 256;
    const uint32_t blocks = config->capacity / 64;
    const uint32_t each = ingot_vulkan_ceiling(blocks, INGOT_VULKAN_MOST_SPLITS * INGOT_VULKAN_SPLIT_BLOCKS);
    session->split_blocks = larger(each, 1) * INGOT_VULKAN_SPLIT_BLOCKS;
    session->splits = ingot_vulkan_ceiling(blocks, session->split_blocks);
}

static uint64_t partial_bytes(const ingot_vulkan_session *session) {
    const ingot_backend_program *program = &session->model->program;
    uint64_t most = 0;
    for (uint32_t i = 0; i < program->instruction_count && session->splits > 1; i++) {
        if (!session->model->takes[i] || program->instructions[i].opcode != INGOT_OPCODE_ATTENTION) {
            continue;
        }
        const ingot_attention_parameters *parameters = ingot_vulkan_parameters(program, i);
        const uint64_t floats = ingot_vulkan_ceiling(parameters->head_size, 16) * 16 + 2;
        const uint64_t bytes = floats * 4 * parameters->heads * session->splits * INGOT_VULKAN_FEW;
        most = bytes > most ? bytes : most;
    }
    return most;
}

static uint64_t staging_bytes(const ingot_vulkan_session *session) {
    const ingot_backend_program *program = &session->model->program;
    uint64_t most = session->config.block_bytes > LEAST_STAGING ? session->config.block_bytes : LEAST_STAGING;
    for (uint32_t i = 0; i < program->tensor_count; i++) {
        const ingot_tensor_record *record = &program->tensors[i];
        if (record->role == INGOT_ROLE_ACTIVATION && record->size > most) {
            most = record->size;
        }
    }
    return most;
}

static void place_states(ingot_vulkan_session *session) {
    const ingot_backend_program *program = &session->model->program;
    for (uint32_t i = 0; i < program->instruction_count; i++) {
        if (!session->model->takes[i] || program->instructions[i].opcode != INGOT_OPCODE_ATTENTION) {
            continue;
        }
        const ingot_attention_parameters *parameters = ingot_vulkan_parameters(program, i);
        const ingot_backend_state *given = &session->config.states[i];
        ingot_vulkan_state *state = &session->states[i];
        *state = (ingot_vulkan_state){.offset = given->offset,
                                      .bytes = given->head_bytes * parameters->kv_heads,
                                      .key_bytes = given->key_bytes,
                                      .head_bytes = given->head_bytes};
        session->state_bytes += session->config.capacity / 64 * state->bytes;
    }
}

static ingot_status fill(ingot_vulkan_session *session, const ingot_vulkan_buffer *buffer, uint64_t bytes, int value) {
    enum { PIECE = 1 << 20 };
    uint8_t *piece = malloc(PIECE);
    if (piece == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory to fill a buffer");
    }
    memset(piece, value, PIECE);
    ingot_status status = INGOT_OK;
    for (uint64_t start = 0; start < bytes && status == INGOT_OK; start += PIECE) {
        const uint64_t count = bytes - start < PIECE ? bytes - start : PIECE;
        status = ingot_vulkan_copy_in(&session->model->device, &session->transfer, buffer, start, piece, count);
    }
    free(piece);
    return status;
}

static ingot_status open_states(ingot_vulkan_session *session) {
    const uint64_t blocks = session->config.capacity / 64;
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; i < session->model->program.instruction_count && status == INGOT_OK; i++) {
        ingot_vulkan_state *state = &session->states[i];
        if (state->bytes != 0) {
            status = ingot_vulkan_buffer_open(&session->model->device, blocks * state->bytes, INGOT_VULKAN_DEVICE,
                                              &state->buffer);
            /* A saved block must not hold what another session left in memory. */
            status = status == INGOT_OK ? fill(session, &state->buffer, blocks * state->bytes, 0) : status;
        }
    }
    return status;
}

static ingot_status open_buffers(ingot_vulkan_session *session) {
    ingot_vulkan_device *device = &session->model->device;
    const ingot_backend_program *program = &session->model->program;
    const ingot_backend_session_config *config = &session->config;
    const uint64_t kinds = session->model->per_token ? 2 : 1;
    const uint64_t slices = ingot_vulkan_ceiling(program->plan->vocabulary, INGOT_VULKAN_SLICE);
    const struct {
        ingot_vulkan_buffer *buffer;
        uint64_t size;
        ingot_vulkan_place place;
    } wanted[] = {
        {&session->arenas[0], program->plan->arena_bytes_per_token * config->chunk, INGOT_VULKAN_DEVICE},
        {&session->arenas[1], program->plan->arena_bytes_per_selected * config->logits_rows, INGOT_VULKAN_DEVICE},
        {&session->scratch, kinds * (session->scratch_codes + session->scratch_groups), INGOT_VULKAN_DEVICE},
        {&session->partials, partial_bytes(session), INGOT_VULKAN_DEVICE},
        {&session->picks, 8 * slices * INGOT_VULKAN_MOST_PICKS * config->logits_rows, INGOT_VULKAN_HOST},
        {&session->pass, sizeof(ingot_vulkan_pass_head) + 4 * (uint64_t)config->chunk, INGOT_VULKAN_HOST},
        {&session->indirect, 16 * (uint64_t)program->instruction_count, INGOT_VULKAN_HOST},
    };
    const uint32_t count = sizeof wanted / sizeof wanted[0];
    place_states(session);
    uint64_t total = session->state_bytes + staging_bytes(session);
    for (uint32_t i = 0; i < count; i++) {
        total += wanted[i].size;
    }
    if (config->memory_limit != 0 && total > config->memory_limit) {
        return ingot_vulkan_fail(INGOT_ERROR_MEMORY_LIMIT, "a session of %llu bytes, the limit is %llu",
                                 (unsigned long long)total, (unsigned long long)config->memory_limit);
    }
    ingot_status status = ingot_vulkan_transfer_open(device, staging_bytes(session), &session->transfer);
    for (uint32_t i = 0; i < count && status == INGOT_OK; i++) {
        status = ingot_vulkan_buffer_open(device, wanted[i].size, wanted[i].place, wanted[i].buffer);
    }
    if (status == INGOT_OK) { /* no id: a pick that a shader leaves out is none, not what lay there */
        memset(session->picks.mapped, 0xff, wanted[4].size);
    }
    /* Under validation, what an op forgets to write is NaN and not what an earlier session left. */
    const uint32_t filled = ingot_vulkan_setting("VALIDATE", 0) != 0 ? 4 : 0;
    for (uint32_t i = 0; i < filled && status == INGOT_OK; i++) {
        status = fill(session, wanted[i].buffer, wanted[i].size, 0xff);
    }
    return status == INGOT_OK ? open_states(session) : status;
}

static ingot_status open_sets(ingot_vulkan_session *session) {
    ingot_vulkan_device *device = &session->model->device;
    const uint32_t instructions = session->model->program.instruction_count;
    uint32_t count = 0;
    for (uint32_t i = 0; i < instructions; i++) {
        session->slots[i] = count;
        count += ingot_vulkan_slots_of(session->model, i);
    }
    session->slots[instructions] = count++;
    const VkDescriptorPoolSize size = {VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, count * INGOT_VULKAN_BINDINGS};
    const VkDescriptorPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                             .maxSets = count,
                                             .poolSizeCount = 1,
                                             .pPoolSizes = &size};
    ingot_status status = ingot_vulkan_check(
        device->vk.CreateDescriptorPool(device->device, &pool, NULL, &session->set_pool), "vkCreateDescriptorPool");
    session->sets = calloc(count, sizeof(VkDescriptorSet));
    VkDescriptorSetLayout *layouts = calloc(count, sizeof *layouts);
    if (status == INGOT_OK && (session->sets == NULL || layouts == NULL)) {
        status = ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for %u descriptor sets", count);
    }
    for (uint32_t i = 0; i < count && status == INGOT_OK; i++) {
        layouts[i] = device->set_layout;
    }
    if (status == INGOT_OK) {
        const VkDescriptorSetAllocateInfo sets = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                                  .descriptorPool = session->set_pool,
                                                  .descriptorSetCount = count,
                                                  .pSetLayouts = layouts};
        status = ingot_vulkan_check(device->vk.AllocateDescriptorSets(device->device, &sets, session->sets),
                                    "vkAllocateDescriptorSets");
    }
    free(layouts);
    return status;
}

/* Writes the sets and makes the pipelines of every shape of pass. */
static ingot_status prepare(ingot_vulkan_session *session) {
    const ingot_backend_session_config *config = &session->config;
    const uint32_t instructions = session->model->program.instruction_count;
    const uint32_t tokens[] = {1, config->chunk < INGOT_VULKAN_FEW ? config->chunk : INGOT_VULKAN_FEW, config->chunk};
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; i < 3 && status == INGOT_OK; i++) {
        const uint32_t selected = tokens[i] < config->logits_rows ? tokens[i] : config->logits_rows;
        ingot_vulkan_recorder recorder = {.session = session, .m = tokens[i], .selected = selected};
        status = selected == 0 ? INGOT_OK : ingot_vulkan_record_range(&recorder, 0, instructions);
    }
    ingot_vulkan_cache_keep(&session->model->device);
    return status;
}

static ingot_status open_commands(ingot_vulkan_session *session) {
    ingot_vulkan_device *device = &session->model->device;
    const VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                          .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                          .queueFamilyIndex = device->traits.family};
    const VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VkCommandBuffer buffers[INGOT_VULKAN_RECORDINGS];
    VkResult result = device->vk.CreateCommandPool(device->device, &pool, NULL, &session->command_pool);
    if (result == VK_SUCCESS) {
        const VkCommandBufferAllocateInfo commands = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                      .commandPool = session->command_pool,
                                                      .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                                      .commandBufferCount = INGOT_VULKAN_RECORDINGS};
        result = device->vk.AllocateCommandBuffers(device->device, &commands, buffers);
    }
    for (uint32_t i = 0; i < INGOT_VULKAN_RECORDINGS && result == VK_SUCCESS; i++) {
        session->recordings[i].commands = buffers[i];
    }
    if (result == VK_SUCCESS) {
        result = device->vk.CreateFence(device->device, &fence, NULL, &session->fence);
    }
    return ingot_vulkan_check(result, "commands of a session");
}

static ingot_status open_session(ingot_vulkan_session *session) {
    const uint32_t instructions = session->model->program.instruction_count;
    session->states = calloc(instructions + 1, sizeof *session->states);
    session->slots = calloc(instructions + 2, sizeof *session->slots);
    if (session->states == NULL || session->slots == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a session");
    }
    measure(session);
    ingot_status status = open_buffers(session);
    status = status == INGOT_OK ? open_sets(session) : status;
    status = status == INGOT_OK ? open_commands(session) : status;
    return status == INGOT_OK ? prepare(session) : status;
}

ingot_status ingot_vulkan_session_open(void *model, const ingot_backend_session_config *config, void **session) {
    *session = NULL;
    ingot_vulkan_session *opened = calloc(1, sizeof *opened);
    if (opened == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a session");
    }
    opened->model = model;
    opened->config = *config;
    ingot_status status = ingot_vulkan_silent(open_session(opened));
    opened->config.states = NULL; /* the caller's */
    if (status != INGOT_OK) {
        ingot_vulkan_session_close(opened);
        return status;
    }
    *session = opened;
    return INGOT_OK;
}

void ingot_vulkan_session_close(void *closed) {
    ingot_vulkan_session *session = closed;
    if (session == NULL) {
        return;
    }
    ingot_vulkan_device *device = &session->model->device;
    ingot_vulkan_buffer *buffers[] = {&session->arenas[0], &session->arenas[1], &session->scratch, &session->partials,
                                      &session->picks,     &session->pass,      &session->indirect};
    for (uint32_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        ingot_vulkan_buffer_close(device, buffers[i]);
    }
    for (uint32_t i = 0; session->states != NULL && i < session->model->program.instruction_count; i++) {
        ingot_vulkan_buffer_close(device, &session->states[i].buffer);
    }
    ingot_vulkan_transfer_close(device, &session->transfer);
#ifdef INGOT_PLANT /* a fence that is left behind: the validation layer must tell */
    if (ingot_vulkan_setting("PLANT", 0) == 20) {
        session->fence = VK_NULL_HANDLE;
    }
#endif
    device->vk.DestroyFence(device->device, session->fence, NULL);
    device->vk.DestroyCommandPool(device->device, session->command_pool, NULL);
    device->vk.DestroyDescriptorPool(device->device, session->set_pool, NULL);
    free(session->sets);
    free(session->slots);
    free(session->states);
    free(session);
}
