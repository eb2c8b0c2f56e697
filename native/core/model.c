/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "core/backend.h"
#include "core/crc32c.h"
#include "core/dequantize.h"
#include "core/error.h"
#include "core/model.h"
#include "kernels/cpu.h"
#include "platform/platform.h"

static ingot_status choose_levels(const ingot_open_config *config, ingot_model *model) {
    const uint32_t allowed = ingot_cpu_mask();
    if ((config->isa_mask & ~allowed) != 0) {
        return ingot_fail(INGOT_ERROR_HARDWARE, "instruction set mask 0x%x: this CPU and INGOT_FORCE_ISA leave 0x%x",
                          config->isa_mask, allowed);
    }
    model->isa_mask = (config->isa_mask != 0 ? config->isa_mask : allowed) | INGOT_ISA_REF;
    return INGOT_OK;
}

static ingot_status open_into(const char *path, const ingot_open_config *config, ingot_model *model) {
    ingot_status status = ingot_cpu_check();
    status = status == INGOT_OK ? choose_levels(config, model) : status;
    status = status == INGOT_OK ? ingot_file_open(path, config->flags, &model->file) : status;
    status = status == INGOT_OK ? ingot_program_prepare(model) : status;
    status = status == INGOT_OK ? ingot_backend_prepare(model, config, path) : status;
    return status == INGOT_OK ? ingot_file_intact(&model->file) : status;
}

ingot_status ingot_model_open(const char *path, ingot_model **model) {
    const ingot_open_config standard = {.struct_size = sizeof standard};
    return ingot_model_open_with(path, &standard, model);
}

ingot_status ingot_model_open_with(const char *path, const ingot_open_config *config, ingot_model **model) {
    if (path == NULL || model == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_model_open: path and model must not be NULL");
    }
    if (config == NULL || config->struct_size != sizeof *config ||
        (config->flags & ~(uint32_t)(INGOT_OPEN_STRICT | INGOT_OPEN_GUARD)) != 0) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "ingot_model_open_with: struct_size must be %zu, and no unknown flag be set", sizeof *config);
    }
    ingot_model *created = calloc(1, sizeof *created);
    if (created == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a model");
    }
    created->references = 1;
    ingot_status status = open_into(path, config, created);
    if (status != INGOT_OK) {
        ingot_model_close(created);
        return status;
    }
    *model = created;
    return INGOT_OK;
}

ingot_status ingot_model_intact(const ingot_model *model) {
    if (model == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "the model is NULL");
    }
    return ingot_file_intact(&model->file);
}

uint32_t ingot_model_isa(const ingot_model *model) { return model == NULL ? 0 : model->isa_mask; }

void ingot_model_acquire(ingot_model *model) { atomic_fetch_add(&model->references, 1); }

void ingot_model_close(ingot_model *model) {
    if (model == NULL || atomic_fetch_sub(&model->references, 1) != 1) {
        return;
    }
    ingot_backend_discard(model->backend);
    ingot_program_discard(model);
    ingot_file_close(&model->file);
    free(model);
}

ingot_status ingot_model_info_get(const ingot_model *model, ingot_model_info *info) {
    if (model == NULL || info == NULL || info->struct_size != sizeof *info) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_model_info_get: info->struct_size must be %zu",
                          sizeof *info);
    }
    const ingot_file *file = &model->file;
    *info = (ingot_model_info){
        .struct_size = sizeof *info,
        .tensor_count = file->tensor_count,
        .instruction_count = model->step_count,
        .context = file->plan->context,
        .chunk = file->plan->chunk,
        .vocabulary = file->plan->vocabulary,
        .logits_width = (uint32_t)file->tensors[file->step_output].shape[1],
        .embedding_rows = model->embedding_rows,
        .file_size = file->size,
        .weights_offset = file->weights_offset,
        .weights_size = file->weights_size,
        .weight_bytes_per_token = file->plan->weight_bytes_per_token,
    };
    return INGOT_OK;
}

ingot_status ingot_model_release(ingot_model *model, uint64_t *bytes) {
    if (model == NULL || bytes == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_model_release: model and bytes must not be NULL");
    }
    /* Whole pages of the weights only: those before them may be the private copies of the structure. */
    *bytes = ingot_platform_forget(model->file.weights, model->file.weights_size);
    return INGOT_OK;
}

static ingot_status find_tensor(const ingot_model *model, uint32_t tensor, const ingot_tensor_record **record) {
    if (model == NULL || tensor >= model->file.tensor_count) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "tensor %u: the model has %u", tensor,
                          model == NULL ? 0 : model->file.tensor_count);
    }
    *record = &model->file.tensors[tensor];
    return INGOT_OK;
}

ingot_status ingot_model_tensor_info(const ingot_model *model, uint32_t tensor, ingot_tensor_info *info) {
    const ingot_tensor_record *record = NULL;
    ingot_status status = find_tensor(model, tensor, &record);
    if (status != INGOT_OK) {
        return status;
    }
    if (info == NULL || info->struct_size != sizeof *info) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_model_tensor_info: info->struct_size must be %zu",
                          sizeof *info);
    }
    *info = (ingot_tensor_info){.struct_size = sizeof *info,
                                .role = record->role,
                                .dtype = record->dtype,
                                .scale_kind = record->scale_kind,
                                .layout = record->layout,
                                .rank = record->rank,
                                .offset = record->offset,
                                .size = record->size};
    memcpy(info->shape, record->shape, sizeof info->shape);
    return INGOT_OK;
}

ingot_status ingot_tensor_dequantize(const ingot_model *model, uint32_t tensor, uint64_t row_begin, uint64_t row_end,
                                     float *out, uint64_t capacity) {
    const ingot_tensor_record *record = NULL;
    ingot_status status = find_tensor(model, tensor, &record);
    if (status != INGOT_OK) {
        return status;
    }
    if (record->role != INGOT_ROLE_WEIGHT && record->role != INGOT_ROLE_CONSTANT) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "tensor %u is not stored in the file", tensor);
    }
    bool vector = record->rank == 1;
    uint64_t rows = vector ? 1 : record->shape[0], k = vector ? record->shape[0] : record->shape[1];
    if (record->rank > 2 || row_begin > row_end || row_end > rows || out == NULL ||
        capacity / k < row_end - row_begin) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "rows %llu to %llu of tensor %u (%llu x %llu) do not fit %llu floats",
                          (unsigned long long)row_begin, (unsigned long long)row_end, tensor, (unsigned long long)rows,
                          (unsigned long long)k, (unsigned long long)capacity);
    }
    for (uint64_t row = row_begin; row < row_end; row++) {
        ingot_row_dequantize(record, model->file.weights + record->offset, row, out + (row - row_begin) * k);
    }
    return ingot_file_intact(&model->file);
}

uint32_t ingot_model_layout(const ingot_model *model) {
    uint32_t digest = 0;
    for (uint32_t index = 0; model != NULL && index < model->file.tensor_count; index++) {
        const ingot_tensor_record *record = &model->file.tensors[index];
        uint64_t words[INGOT_MAX_RANK + 3] = {record->role, record->dtype, record->layout};
        memcpy(words + 3, record->shape, sizeof record->shape);
        digest = ingot_crc32c(digest, (const uint8_t *)words, sizeof words);
    }
    return digest;
}
