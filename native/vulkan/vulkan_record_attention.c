/* SPDX-License-Identifier: Apache-2.0 */
/* attention: append, attend, merge. The words are those of attention_state.glsl. */
#include <stdio.h>

#include "vulkan/vulkan_record.h"

enum { NAME_BYTES = 48, MANY_ROWS = 4, WORDS_OF_GROUP = 64 };

static const char *const FORMATS[] = {"", "f16", "kv8", "k8v4"};

/* An attention of a pass. */
typedef struct attention_call {
    const ingot_attention_parameters *parameters;
    const uint32_t *operands;
    uint32_t group;       /* query heads of a KV head */
    uint32_t head_padded; /* to 16 */
    uint32_t rows;        /* of a workgroup */
    bool split;
} attention_call;

static attention_call call_of(const ingot_vulkan_session *session, uint32_t instruction, uint32_t m) {
    const ingot_backend_program *program = &session->model->program;
    const ingot_attention_parameters *parameters = ingot_vulkan_parameters(program, instruction);
    const uint32_t group = parameters->heads / parameters->kv_heads;
    return (attention_call){
        .parameters = parameters,
        .operands = ingot_vulkan_operands(program, instruction),
        .group = group,
        .head_padded = ingot_vulkan_ceiling(parameters->head_size, 16) * 16,
        .rows = m * group == 1 ? 1 : MANY_ROWS,
        .split = m <= INGOT_VULKAN_FEW && session->splits > 1,
    };
}

static uint32_t group_count(const attention_call *call, uint32_t m) {
    return call->parameters->kv_heads * ingot_vulkan_ceiling(m * call->group, call->rows);
}

/* Parts of 64 words of a row of values. */
static uint32_t parts_of_row(const ingot_vulkan_session *session, const attention_call *call) {
    const uint32_t per_word = 1u << session->config.kv_format; /* 2, 4, 8 */
    return ingot_vulkan_ceiling(call->head_padded / per_word, WORDS_OF_GROUP);
}

VkDispatchIndirectCommand ingot_vulkan_attention_groups(const ingot_vulkan_session *session, uint32_t instruction,
                                                        uint32_t m, uint32_t position) {
    const attention_call call = call_of(session, instruction, m);
    return (VkDispatchIndirectCommand){group_count(&call, m), (position + m - 1) / (64 * session->split_blocks) + 1,
                                       parts_of_row(session, &call)};
}

static void fill(const ingot_vulkan_recorder *recorder, const attention_call *call, ingot_vulkan_dispatch *to) {
    const ingot_vulkan_session *session = recorder->session;
    const ingot_vulkan_state *state = &session->states[recorder->instruction];
    const ingot_attention_parameters *parameters = call->parameters;
    const ingot_vulkan_rows q = ingot_vulkan_rows_at(recorder, call->operands[0]);
    const ingot_vulkan_rows k = ingot_vulkan_rows_at(recorder, call->operands[1]);
    const ingot_vulkan_rows v = ingot_vulkan_rows_at(recorder, call->operands[2]);
    const ingot_vulkan_rows out = ingot_vulkan_rows_at(recorder, call->operands[5]);
    const uint32_t words[] = {
        parameters->head_size,
        call->head_padded,
        parameters->kv_heads,
        (uint32_t)(state->bytes / 4),
        (uint32_t)(state->head_bytes / 4),
        (uint32_t)(state->key_bytes / 4),
        k.base,
        k.stride,
        v.base,
        v.stride,
        q.base,
        q.stride,
        out.base,
        out.stride,
        call->group,
        parameters->window,
        parameters->sinks,
        ingot_vulkan_bits(parameters->scale),
        session->split_blocks,
        call->split ? session->splits : 0,
        recorder->m,
    };
    for (uint32_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        to->words[i] = words[i];
    }
    to->bindings[0] = ingot_vulkan_whole(&state->buffer);
    to->bindings[1] = to->slot == 0 ? k.binding : q.binding;
    to->bindings[4] = v.binding;
    to->bindings[5] = out.binding;
    to->bindings[7] = ingot_vulkan_whole(&session->partials);
}

static ingot_status attend(ingot_vulkan_recorder *recorder, const attention_call *call) {
    const ingot_vulkan_session *session = recorder->session;
    const bool dot = session->model->device.traits.int_dot && session->config.kv_format != INGOT_KV_F16;
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "attention_%s_%u%s", FORMATS[session->config.kv_format], call->rows,
                   dot ? "_dot" : "");
    ingot_vulkan_dispatch dispatch = {
        .shader = name,
        .slot = 1,
        .x = group_count(call, recorder->m),
        .y = 1,
        .z = parts_of_row(session, call),
        .indirect = call->split,
    };
    fill(recorder, call, &dispatch);
    return ingot_vulkan_emit(recorder, &dispatch);
}

static ingot_status merge(ingot_vulkan_recorder *recorder, const attention_call *call) {
    ingot_vulkan_dispatch dispatch = {
        .shader = "attention_merge",
        .slot = 2,
        .x = recorder->m * call->parameters->heads,
        .y = 1,
        .z = 1,
    };
    ingot_vulkan_barrier(recorder);
    fill(recorder, call, &dispatch);
    return ingot_vulkan_emit(recorder, &dispatch);
}

ingot_status ingot_vulkan_record_attention(ingot_vulkan_recorder *recorder) {
    const ingot_vulkan_session *session = recorder->session;
    const attention_call call = call_of(session, recorder->instruction, recorder->m);
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "append_%s", FORMATS[session->config.kv_format]);
    ingot_vulkan_dispatch append = {
        .shader = name,
        .slot = 0,
        .x = call.parameters->kv_heads,
        .y = recorder->m / 2 + 1, /* pairs of positions, wherever the first is */
        .z = 1,
    };
    fill(recorder, &call, &append);
    ingot_status status = ingot_vulkan_emit(recorder, &append);
    ingot_vulkan_barrier(recorder);
    status = status == INGOT_OK ? attend(recorder, &call) : status;
    return status == INGOT_OK && call.split ? merge(recorder, &call) : status;
}
