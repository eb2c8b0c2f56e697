/* SPDX-License-Identifier: Apache-2.0 */
/* linear and embed: what reads packed weights. The words are those of format.glsl and linear_finish.glsl. */
#include <stdio.h>
#include <string.h>

#include "core/layout.h"
#include "vulkan/vulkan_record.h"

enum {
    FLAG_BIAS = 1,
    FLAG_RESIDUAL = 2,
    FLAG_SILU = 4,
    FLAG_GELU = 8,
    FLAG_K8 = 16,
    FLAG_SPARSE = 32,
    NAME_BYTES = 48
};

static const char *format_name(uint32_t dtype) {
    switch (dtype) {
        case INGOT_DTYPE_Q8: return "q8";
        case INGOT_DTYPE_Q6: return "q6";
        case INGOT_DTYPE_C5: return "c5";
        case INGOT_DTYPE_Q4: return "q4";
        case INGOT_DTYPE_Q4Z: return "q4z";
        case INGOT_DTYPE_C4: return "c4";
        case INGOT_DTYPE_C3: return "c3";
        case INGOT_DTYPE_C2: return "c2";
        case INGOT_DTYPE_T2: return "t2";
        default: return "f16";
    }
}

/* Words 0 to 8 and 20 to 28. */
static void fill_format(const ingot_tensor_record *record, const ingot_vulkan_piece *piece, uint32_t *words) {
    const uint32_t k = (uint32_t)record->shape[1], group = record->group == 0 ? 32 : record->group;
    words[0] = piece->shift / 16;
    words[1] = (uint32_t)(ingot_tile_bytes(record->dtype, k, record->group) / 16);
    words[2] = piece->first_tile;
    words[3] = piece->tiles;
    words[5] = k;
    words[6] = ingot_vulkan_ceiling(k, 32);
    words[7] = group == 128 ? 2 : group / 64; /* log2 of its blocks */
    words[8] = ingot_vulkan_ceiling(k, group);
    words[20] = (uint32_t)record->delta;
    memcpy(words + 21, record->codebook, sizeof record->codebook);
}

static uint32_t superblocks_of(const ingot_tensor_record *record) {
    const ingot_tile_geometry geometry = ingot_geometry_of(record->dtype, record->group);
    return ingot_vulkan_ceiling((uint32_t)record->shape[1], (uint32_t)(geometry.group * geometry.groups));
}

/* How the parts of a linear read their input. */
typedef struct linear_call {
    const ingot_linear_parameters *parameters;
    const uint32_t *operands;
    ingot_vulkan_rows x;
    bool bias, residual;
    uint32_t residual_tensor;
    uint32_t padded_k;
} linear_call;

static linear_call call_of(const ingot_vulkan_recorder *recorder) {
    const ingot_backend_program *program = &recorder->session->model->program;
    const ingot_instruction *instruction = &program->instructions[recorder->instruction];
    const uint32_t *operands = ingot_vulkan_operands(program, recorder->instruction);
    const ingot_vulkan_rows x = ingot_vulkan_rows_at(recorder, operands[0]);
    return (linear_call){
        .parameters = ingot_vulkan_parameters(program, recorder->instruction),
        .operands = operands,
        .x = x,
        .bias = (instruction->flags & INGOT_LINEAR_FLAG_BIAS) != 0,
        .residual = (instruction->flags & INGOT_LINEAR_FLAG_RESIDUAL) != 0,
        .residual_tensor = operands[instruction->inputs - 1],
        .padded_k = ingot_vulkan_ceiling(x.width, 128) * 128,
    };
}

/* Codes (0) or groups (1) of the input, quantized per 32 k or per token. */
static VkDescriptorBufferInfo quantized(const ingot_vulkan_session *session, bool per_token, uint32_t part) {
    const uint64_t one = session->scratch_codes + session->scratch_groups;
    return (VkDescriptorBufferInfo){session->scratch.buffer,
                                    (per_token ? one : 0) + (part == 1 ? session->scratch_codes : 0),
                                    part == 1 ? session->scratch_groups : session->scratch_codes};
}

static ingot_status quantize(ingot_vulkan_recorder *recorder, const linear_call *call, bool per_token) {
    const uint32_t words_of_row = call->padded_k / 4;
    return ingot_vulkan_emit(
        recorder, &(ingot_vulkan_dispatch){
                      .shader = per_token ? "quantize_token" : "quantize",
                      .slot = per_token,
                      .x = per_token ? 1 : ingot_vulkan_ceiling(words_of_row, 64),
                      .y = call->x.count,
                      .z = 1,
                      .bindings = {[1] = call->x.binding,
                                   [2] = quantized(recorder->session, per_token, 1),
                                   [5] = quantized(recorder->session, per_token, 0)},
                      .words = {call->x.width, call->x.base, call->x.stride, words_of_row, call->padded_k / 32},
                  });
}

static ingot_status quantize_input(ingot_vulkan_recorder *recorder, const linear_call *call) {
    const ingot_tensor_record *tensors = recorder->session->model->program.tensors;
    bool groups = false, tokens = false;
    for (uint32_t i = 0; i < call->parameters->weights; i++) {
        const uint32_t dtype = tensors[call->operands[1 + i]].dtype;
        tokens = tokens || dtype == INGOT_DTYPE_T2;
        groups = groups || (dtype != INGOT_DTYPE_T2 && dtype != INGOT_DTYPE_F16);
    }
    ingot_status status = groups ? quantize(recorder, call, false) : INGOT_OK;
    status = status == INGOT_OK && tokens ? quantize(recorder, call, true) : status;
    ingot_vulkan_barrier(recorder);
    return status;
}

/* Tiles that store different superblocks do not share a walk over k: they take their tokens by eights. */
static bool is_many(const ingot_tensor_record *record, uint32_t rows) {
    return rows > INGOT_VULKAN_FEW && record->sparsity == INGOT_SPARSITY_DENSE;
}

static void choose_shader(const ingot_vulkan_recorder *recorder, const ingot_tensor_record *record, uint32_t rows,
                          char name[NAME_BYTES]) {
    const ingot_vulkan_traits *traits = &recorder->session->model->device.traits;
    const bool int8 = record->dtype != INGOT_DTYPE_F16, dot = traits->int_dot && int8;
    const char *suffix = dot ? "_dot" : "", *format = format_name(record->dtype);
    if (is_many(record, rows) && int8 && traits->matrix.depth != 0) {
        (void)snprintf(name, NAME_BYTES, "linear_%s_%s", traits->matrix.emulated ? "emulated" : "matrix", format);
    } else if (is_many(record, rows)) {
        (void)snprintf(name, NAME_BYTES, "linear_many_%s%s", format, suffix);
    } else {
        (void)snprintf(name, NAME_BYTES, "linear_few_%s_%d%s", format, rows == 1 ? 1 : INGOT_VULKAN_FEW, suffix);
    }
}

static void set_sizes(const linear_call *call, const ingot_tensor_record *record, const ingot_vulkan_piece *piece,
                      ingot_vulkan_dispatch *to) {
    const bool gated = call->parameters->epilogue != INGOT_EPILOGUE_NONE;
    if (is_many(record, call->x.count)) {
        to->x = ingot_vulkan_ceiling(piece->tiles, 4);
        to->y = ingot_vulkan_ceiling(call->x.count, 32);
    } else {
        to->x = gated ? piece->tiles / 2 : piece->tiles;
        to->y = ingot_vulkan_ceiling(call->x.count, INGOT_VULKAN_FEW);
    }
    to->z = 1;
}

static uint32_t flags_of(const linear_call *call, const ingot_tensor_record *record) {
    const uint32_t epilogue = call->parameters->epilogue;
    return (call->bias ? FLAG_BIAS : 0u) | (call->residual ? FLAG_RESIDUAL : 0u) |
           (epilogue == INGOT_EPILOGUE_SILU_GATE ? FLAG_SILU : 0u) |
           (epilogue == INGOT_EPILOGUE_GELU_TANH_GATE ? FLAG_GELU : 0u) |
           (record->layout == INGOT_LAYOUT_T16_K8 ? FLAG_K8 : 0u) |
           (record->sparsity == INGOT_SPARSITY_SUPERBLOCK ? FLAG_SPARSE : 0u);
}

/* Bindings and words that are the same for all pieces of part j. */
static void fill_part(const ingot_vulkan_recorder *recorder, const linear_call *call, uint32_t j,
                      ingot_vulkan_dispatch *to) {
    const ingot_vulkan_session *session = recorder->session;
    const uint32_t weights = call->parameters->weights, weight = call->operands[1 + j];
    const ingot_tensor_record *record = &session->model->program.tensors[weight];
    const ingot_instruction *instruction = &session->model->program.instructions[recorder->instruction];
    const ingot_vulkan_rows out = ingot_vulkan_rows_at(recorder, call->operands[instruction->inputs + j]);
    const bool per_token = record->dtype == INGOT_DTYPE_T2;
    to->flags = flags_of(call, record);
    to->bindings[1] = record->dtype == INGOT_DTYPE_F16 ? call->x.binding : quantized(session, per_token, 0);
    to->bindings[2] = quantized(session, per_token, 1);
    to->bindings[5] = out.binding;
    to->words[4] = out.width;
    to->words[9] = call->padded_k / 4;
    to->words[10] = call->padded_k / 32;
    to->words[11] = call->x.base;
    to->words[12] = call->x.stride;
    to->words[13] = out.base;
    to->words[14] = out.stride;
    to->words[19] = call->x.count;
    if (call->bias) {
        const ingot_vulkan_piece *bias = ingot_vulkan_constant(recorder, call->operands[1 + weights + j]);
        to->bindings[3] = ingot_vulkan_piece_binding(bias);
        to->words[15] = bias->shift / 4;
    }
    if (call->residual) {
        const ingot_vulkan_rows residual = ingot_vulkan_rows_at(recorder, call->residual_tensor);
        to->bindings[4] = residual.binding;
        to->words[16] = residual.base;
        to->words[17] = residual.stride;
    }
}

ingot_status ingot_vulkan_record_linear(ingot_vulkan_recorder *recorder) {
    const ingot_vulkan_model *model = recorder->session->model;
    const linear_call call = call_of(recorder);
    ingot_status status = quantize_input(recorder, &call);
    uint32_t slot = 2;
    for (uint32_t j = 0; j < call.parameters->weights; j++) {
        const ingot_tensor_record *record = &model->program.tensors[call.operands[1 + j]];
        const ingot_vulkan_pieces pieces = model->tensors[call.operands[1 + j]];
        char name[NAME_BYTES];
        choose_shader(recorder, record, call.x.count, name);
        for (uint32_t i = 0; i < pieces.count && status == INGOT_OK; i++) {
            const ingot_vulkan_piece *piece = &model->pieces[pieces.first + i];
            ingot_vulkan_dispatch dispatch = {.shader = name, .slot = slot++};
            fill_part(recorder, &call, j, &dispatch);
            fill_format(record, piece, dispatch.words);
            dispatch.bindings[0] = ingot_vulkan_piece_binding(piece);
            set_sizes(&call, record, piece, &dispatch);
            if (record->sparsity != INGOT_SPARSITY_DENSE) {
                dispatch.bindings[7] = ingot_vulkan_whole(&model->offsets);
                dispatch.words[29] = pieces.first_offset;
                dispatch.words[30] = superblocks_of(record);
            }
            status = ingot_vulkan_emit(recorder, &dispatch);
        }
    }
    return status;
}

ingot_status ingot_vulkan_record_embed(ingot_vulkan_recorder *recorder) {
    const ingot_vulkan_model *model = recorder->session->model;
    const uint32_t *operands = ingot_vulkan_operands(&model->program, recorder->instruction);
    const ingot_tensor_record *record = &model->program.tensors[operands[1]];
    const ingot_vulkan_pieces pieces = model->tensors[operands[1]];
    const ingot_vulkan_rows out = ingot_vulkan_rows_at(recorder, operands[2]);
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "embed_%s", format_name(record->dtype));
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; i < pieces.count && status == INGOT_OK; i++) {
        const ingot_vulkan_piece *piece = &model->pieces[pieces.first + i];
        ingot_vulkan_dispatch dispatch = {
            .shader = name,
            .flags = record->layout == INGOT_LAYOUT_T16_K8 ? FLAG_K8 : 0u,
            .slot = i,
            .y = out.count,
            .z = 1,
            .bindings = {[0] = ingot_vulkan_piece_binding(piece), [5] = out.binding},
        };
        fill_format(record, piece, dispatch.words);
        dispatch.x = ingot_vulkan_ceiling(4 * dispatch.words[6], 64);
        dispatch.words[13] = out.base;
        dispatch.words[14] = out.stride;
        status = ingot_vulkan_emit(recorder, &dispatch);
    }
    return status;
}
