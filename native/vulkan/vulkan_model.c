/* SPDX-License-Identifier: Apache-2.0 */
#include "vulkan/vulkan_model.h"

#include <stdlib.h>
#include <string.h>

/* How wide activations get that linears quantize, and whether per token. */
static void measure_linears(ingot_vulkan_model *model) {
    const ingot_backend_program *program = &model->program;
    for (uint32_t i = 0; i < program->instruction_count; i++) {
        if (!model->takes[i] || program->instructions[i].opcode != INGOT_OPCODE_LINEAR) {
            continue;
        }
        const ingot_linear_parameters *parameters = ingot_vulkan_parameters(program, i);
        const uint32_t *operands = ingot_vulkan_operands(program, i);
        for (uint32_t j = 1; j <= parameters->weights; j++) {
            const ingot_tensor_record *weight = &program->tensors[operands[j]];
            const uint32_t wide = ((uint32_t)weight->shape[1] + 127) / 128 * 128;
            model->widest_k = wide > model->widest_k ? wide : model->widest_k;
            model->per_token = model->per_token || weight->dtype == INGOT_DTYPE_T2;
        }
    }
}

static ingot_status open_model(ingot_vulkan_model *model, const ingot_backend_options *options) {
    ingot_status status = ingot_vulkan_device_open(options->device, options->cache_folder, &model->device);
    if (status != INGOT_OK) {
        return status;
    }
    model->takes = calloc(model->program.instruction_count + 1, sizeof *model->takes);
    model->tensors = calloc(model->program.tensor_count + 1, sizeof *model->tensors);
    if (model->takes == NULL || model->tensors == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a model");
    }
    ingot_vulkan_take(&model->program, model->device.range, model->takes);
    measure_linears(model);
    return ingot_vulkan_weights_open(model, options);
}

ingot_status ingot_vulkan_model_open(const ingot_backend_program *program, const ingot_backend_options *options,
                                     uint8_t *takes, void **model) {
    *model = NULL;
    ingot_vulkan_model *opened = calloc(1, sizeof *opened);
    if (opened == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a model");
    }
    opened->program = *program;
    ingot_status status = ingot_vulkan_silent(open_model(opened, options));
    if (status != INGOT_OK) {
        ingot_vulkan_model_close(opened);
        return status;
    }
    memcpy(takes, opened->takes, program->instruction_count);
    *model = opened;
    return INGOT_OK;
}

void ingot_vulkan_model_close(void *closed) {
    ingot_vulkan_model *model = closed;
    if (model == NULL) {
        return;
    }
    if (model->device.vk.DestroyDevice != NULL) {
        ingot_vulkan_cache_keep(&model->device);
    }
    for (uint32_t i = 0; i < model->segment_count; i++) {
        ingot_vulkan_buffer_close(&model->device, &model->segments[i]);
    }
    if (model->tile_offset_count != 0 && model->device.vk.DestroyBuffer != NULL) {
        ingot_vulkan_buffer_close(&model->device, &model->offsets);
    }
    ingot_vulkan_device_close(&model->device);
    free(model->tile_offsets);
    free(model->segments);
    free(model->pieces);
    free(model->tensors);
    free(model->takes);
    free(model);
}
