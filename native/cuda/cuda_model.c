/* SPDX-License-Identifier: Apache-2.0 */
/* A program on a device: what is taken, how weights look to the kernels. */
#include "cuda_model.h"

#include <stdlib.h>
#include <string.h>

#include "core/layout.h"

uint32_t ingot_cuda_format(const ingot_tensor_record *record) {
    if (record->layout == INGOT_LAYOUT_T16_K8) {
        return CUDA_FORMAT_K8 + (record->dtype == INGOT_DTYPE_Q8 ? 0u : (record->dtype == INGOT_DTYPE_Q4 ? 1u : 2u));
    }
    if (record->dtype == INGOT_DTYPE_F16) return CUDA_FORMAT_F16;
    return record->dtype == INGOT_DTYPE_F32 ? (uint32_t)CUDA_FORMAT_F32 : (uint32_t)record->dtype - INGOT_DTYPE_Q8;
}

uint32_t ingot_cuda_width(const cuda_model *model, uint32_t tensor) {
    return (uint32_t)model->program->tensors[tensor].shape[1];
}

static uint32_t log2_of(uint64_t value) {
    uint32_t shift = 0;
    while (value >> (shift + 1) != 0) {
        shift++;
    }
    return shift;
}

cuda_weight ingot_cuda_weight(const cuda_model *model, uint32_t tensor) {
    const ingot_tensor_record *record = &model->program->tensors[tensor];
    cuda_weight weight = {.data = ingot_cuda_at(model->weights + record->offset),
                          .n = (uint32_t)record->shape[0],
                          .k = (uint32_t)record->shape[1],
                          .delta = record->delta};
    if (record->layout == INGOT_LAYOUT_PLAIN) {
        return weight;
    }
    const ingot_tile_geometry geometry = ingot_geometry_of(record->dtype, record->group);
    weight.tiles = (weight.n + INGOT_TILE_ROWS - 1) / INGOT_TILE_ROWS;
    weight.tile_bytes = ingot_tile_bytes(record->dtype, weight.k, record->group);
    weight.blocks = (uint32_t)(ingot_round_up(weight.k, geometry.group) / 32);
    weight.group_shift = log2_of(geometry.group / 32);
    weight.super_shift = log2_of(geometry.group * geometry.groups / 32);
    weight.super_bytes = (uint32_t)ingot_superblock_bytes(&geometry, geometry.groups);
    memcpy(weight.codebook, record->codebook, sizeof weight.codebook);
    if (model->first_offset[tensor] != UINT64_MAX) {
        weight.tile_offsets = ingot_cuda_at(model->offsets + model->first_offset[tensor]);
    }
    return weight;
}

/* ---- what is taken ---- */

static bool takes_weight(const ingot_backend_program *program, uint32_t tensor, bool table) {
    const ingot_tensor_record *record = &program->tensors[tensor];
    if (record->layout == INGOT_LAYOUT_PLAIN) {
        return table && record->dtype == INGOT_DTYPE_F32;
    }
    const bool known =
        record->dtype == INGOT_DTYPE_F16 || (record->dtype >= INGOT_DTYPE_Q8 && record->dtype <= INGOT_DTYPE_T2);
    return known && ingot_layout_valid(record->dtype, record->layout);
}

static bool takes_linear(const ingot_backend_program *program, const cuda_step *step) {
    const ingot_linear_parameters *parameters = step->parameters;
    bool all = parameters->weights >= 1 && parameters->weights <= CUDA_PARTS;
    for (uint32_t i = 0; all && i < parameters->weights; i++) {
        all = takes_weight(program, step->inputs[1 + i], false);
    }
    return all;
}

static bool takes(const cuda_model *model, uint32_t index) {
    const cuda_step step = ingot_cuda_step(model, index);
    switch (step.record->opcode) {
        case INGOT_OPCODE_EMBED: return takes_weight(model->program, step.inputs[1], true);
        case INGOT_OPCODE_LINEAR: return takes_linear(model->program, &step);
        case INGOT_OPCODE_ROPE: {
            const ingot_rope_parameters *parameters = step.parameters;
            return parameters->head_size <= CUDA_MOST_HEAD;
        }
        case INGOT_OPCODE_ATTENTION: {
            const ingot_attention_parameters *parameters = step.parameters;
            return parameters->head_size <= CUDA_MOST_HEAD && parameters->soft_cap == 0.0f;
        }
        default: return step.record->opcode >= INGOT_OPCODE_EMBED && step.record->opcode <= INGOT_OPCODE_SELECT_LAST;
    }
}

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Widths that a session must have room for. */
static void note_sizes(cuda_model *model, uint32_t index) {
    const cuda_step step = ingot_cuda_step(model, index);
    if (step.record->opcode == INGOT_OPCODE_LINEAR) {
        bool groups, tokens;
        ingot_cuda_linear_wants(model, &step, &groups, &tokens);
        const uint32_t k = ingot_cuda_width(model, step.inputs[0]);
        model->padded_k = larger(model->padded_k, (k + 127) / 128 * 128);
        model->quantizes_tokens |= tokens;
    } else if (step.record->opcode == INGOT_OPCODE_ATTENTION) {
        const ingot_attention_parameters *parameters = step.parameters;
        model->widest_heads = larger(model->widest_heads, parameters->heads);
        model->widest_head = larger(model->widest_head, (parameters->head_size + 15) / 16 * 16);
    }
}

/* All attentions or none; returns whether anything is taken. */
static bool decide(cuda_model *model, uint8_t *taken) {
    const ingot_backend_program *program = model->program;
    bool attentions = true, any = false;
    for (uint32_t i = 0; i < program->instruction_count; i++) {
        taken[i] = takes(model, i);
        attentions &= taken[i] != 0 || program->instructions[i].opcode != INGOT_OPCODE_ATTENTION;
    }
    for (uint32_t i = 0; i < program->instruction_count; i++) {
        if (!attentions && program->instructions[i].opcode == INGOT_OPCODE_ATTENTION) {
            taken[i] = 0;
        }
        if (taken[i]) {
            note_sizes(model, i);
            any = true;
        }
    }
    return any;
}

/* ---- sparse weights: where their tiles start ---- */

static uint64_t tiles_of(const ingot_tensor_record *record) {
    return (record->shape[0] + INGOT_TILE_ROWS - 1) / INGOT_TILE_ROWS;
}

static ingot_status note_offsets(cuda_model *model, uint64_t *offsets) {
    const ingot_backend_program *program = model->program;
    uint64_t place = 0;
    for (uint32_t i = 0; i < program->tensor_count; i++) {
        const ingot_tensor_record *record = &program->tensors[i];
        model->first_offset[i] = UINT64_MAX;
        if (record->role != INGOT_ROLE_WEIGHT || record->sparsity != INGOT_SPARSITY_SUPERBLOCK) {
            continue;
        }
        model->first_offset[i] = place * sizeof(uint64_t);
        if (offsets != NULL && !ingot_sparse_walk(record->dtype, record->shape[0], record->shape[1], record->group,
                                                  program->weights + record->offset, record->size, offsets + place)) {
            return ingot_cuda_fail(INGOT_ERROR_FORMAT, "the lists of sparse tensor %u are not what they were", i);
        }
        place += tiles_of(record) + 1;
    }
    model->offsets_bytes = place * sizeof(uint64_t);
    return INGOT_OK;
}

static ingot_status place_offsets(cuda_model *model) {
    (void)note_offsets(model, NULL);
    if (model->offsets_bytes == 0) {
        return INGOT_OK;
    }
    uint64_t *offsets = malloc(model->offsets_bytes);
    if (offsets == NULL) {
        return ingot_cuda_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for the places of sparse tiles");
    }
    ingot_status status = note_offsets(model, offsets);
    if (status == INGOT_OK) {
        status = ingot_cuda_check(model->driver, model->driver->memory_allocate(&model->offsets, model->offsets_bytes),
                                  "device memory for the places of sparse tiles");
    }
    if (status == INGOT_OK) {
        status = ingot_cuda_settle(model->driver,
                                   model->driver->copy_to_device(model->offsets, offsets, model->offsets_bytes),
                                   "the places of sparse tiles");
    }
    free(offsets);
    return status;
}

/* ---- open and close ---- */

static ingot_status open_device(cuda_model *model, const ingot_backend_options *options) {
    ingot_backend_device info;
    int value = 0;
    ingot_status status = ingot_cuda_device_info(options->device, &info);
    if (status != INGOT_OK) {
        return status;
    }
    if (info.refused[0] != 0) {
        return ingot_cuda_fail(INGOT_ERROR_HARDWARE, "%s: %s", info.name, info.refused);
    }
    const ingot_cuda_driver *driver = model->driver = ingot_cuda_driver_open();
    status = ingot_cuda_check(driver, driver->device_get(&model->device, (int)options->device), "the device");
    if (status == INGOT_OK) {
        status = ingot_cuda_check(driver, driver->context_retain(&model->context, model->device), "a context");
    }
    if (status != INGOT_OK) {
        return status;
    }
    (void)driver->device_attribute(&value, CU_ATTRIBUTE_INTEGRATED, model->device);
    model->integrated = value != 0;
    value = 1;
    (void)driver->device_attribute(&value, CU_ATTRIBUTE_MULTIPROCESSORS, model->device);
    model->multiprocessors = value > 0 ? (uint32_t)value : 1;
    return INGOT_OK;
}

static ingot_status fill_model(cuda_model *model, const ingot_backend_options *options, uint8_t *takes_list) {
    ingot_status status = ingot_cuda_load_kernels(model);
    if (status != INGOT_OK || !decide(model, takes_list)) {
        return status;
    }
    status = place_offsets(model);
    return status == INGOT_OK ? ingot_cuda_weights_place(model, options) : status;
}

ingot_status ingot_cuda_model_open(const ingot_backend_program *program, const ingot_backend_options *options,
                                   uint8_t *takes_list, void **result) {
    cuda_model *model = calloc(1, sizeof *model);
    if (model != NULL) model->first_offset = malloc((program->tensor_count + 1) * sizeof(uint64_t));
    if (model == NULL || model->first_offset == NULL) {
        free(model);
        return ingot_cuda_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for the model");
    }
    model->own_program = *program;
    model->program = &model->own_program;
    ingot_status status = open_device(model, options);
    if (status == INGOT_OK) {
        cu_context before;
        (void)model->driver->context_push(model->context);
        status = fill_model(model, options, takes_list);
        (void)model->driver->context_pop(&before);
    }
    if (status != INGOT_OK) {
        ingot_cuda_model_close(model);
        return status;
    }
    *result = model;
    return INGOT_OK;
}

void ingot_cuda_model_close(void *opaque) {
    cuda_model *model = opaque;
    cu_context before;
    if (model == NULL) {
        return;
    }
    if (model->context != NULL) {
        (void)model->driver->context_push(model->context);
        ingot_cuda_weights_release(model);
        if (model->offsets != 0) (void)model->driver->memory_free(model->offsets);
        for (uint32_t i = 0; i < model->module_count; i++) (void)model->driver->module_unload(model->modules[i]);
        (void)model->driver->context_pop(&before);
        (void)model->driver->context_release(model->device);
    }
    free(model->first_offset);
    free(model);
}
