/* SPDX-License-Identifier: Apache-2.0 */
/* Finds a backend, asks it what it takes, and cuts the program into segments. */
#include "core/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "platform/platform.h"

enum { PATH_BYTES = 4096 };

/* A name is a library beside this one; a path, for tests and backends of one's own, is taken as it is. */
static ingot_status find_library(const char *backend, char *path) {
    int used;
    if (strchr(backend, '/') != NULL) {
        used = snprintf(path, PATH_BYTES, "%s", backend);
    } else {
        char folder[PATH_BYTES];
        const bool known = ingot_platform_own_folder(folder, sizeof folder) == INGOT_OK;
        used = snprintf(path, PATH_BYTES, "%s/libingot_%s.so", known ? folder : "", backend);
    }
    if (used < 0 || used >= PATH_BYTES) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "the path of backend '%.80s' is too long", backend);
    }
    return INGOT_OK;
}

static ingot_status load(const char *backend, void **library, const ingot_backend **api) {
    char path[PATH_BYTES];
    void *function = NULL;
    ingot_status status = find_library(backend, path);
    status = status == INGOT_OK ? ingot_platform_load(path, "ingot_backend_get", library, &function) : status;
    if (status != INGOT_OK) {
        return status;
    }
    const ingot_backend *(*get)(void) = NULL;
    memcpy(&get, &function, sizeof get); /* C has no cast from an object's pointer to a function's */
    *api = get();
    if ((*api)->abi != INGOT_BACKEND_ABI || (*api)->struct_size != sizeof **api) {
        ingot_platform_unload(*library);
        return ingot_fail(INGOT_ERROR_NO_BACKEND,
                          "'%.200s' is of another build: interface %u, expected %u; install both from one package",
                          path, (*api)->abi, INGOT_BACKEND_ABI);
    }
    return INGOT_OK;
}

static ingot_status failed(const ingot_backend *api, ingot_status status) {
    return ingot_fail(status, "%s: %.400s", api->name, api->last_error());
}

static void add_transfer(ingot_backend_model *backend, uint32_t tensor) {
    backend->transfers[backend->transfer_count++] = tensor;
    backend->segments[backend->segment_count - 1].transfer_end = backend->transfer_count;
}

static void extend(ingot_backend_model *backend, uint32_t index, bool there) {
    ingot_segment *last = backend->segment_count == 0 ? NULL : &backend->segments[backend->segment_count - 1];
    if (last == NULL || last->there != there) {
        last = &backend->segments[backend->segment_count++];
        *last = (ingot_segment){index, 0, there, backend->transfer_count, backend->transfer_count};
    }
    last->count++;
}

enum { HERE = 1, THERE = 2 };

/* A transfer that a later instruction of a segment needs comes before the segment too: nothing in it writes the tensor
 * first, or it would be valid. `valid` is by tensor, bits of HERE and THERE. */
static void cut_segments(const ingot_model *model, ingot_backend_model *backend, uint8_t *valid) {
    const ingot_file *file = &model->file;
    backend->takes_all = true;
    for (uint32_t index = 0; index < model->step_count; index++) {
        const ingot_instruction *instruction = &file->instructions[file->step_first + index];
        const bool there = backend->takes[index] != 0;
        const uint8_t side = there ? THERE : HERE;
        backend->takes_all = backend->takes_all && there;
        extend(backend, index, there);
        for (uint32_t i = 0; i < instruction->inputs; i++) {
            const uint32_t tensor = model->steps[index].inputs[i];
            const ingot_tensor_record *record = &file->tensors[tensor];
            const bool moves = record->role == INGOT_ROLE_ACTIVATION && record->dtype == INGOT_DTYPE_F32;
            if (moves && (valid[tensor] & side) == 0) {
                add_transfer(backend, tensor);
                valid[tensor] |= side;
            }
        }
        for (uint32_t i = 0; i < instruction->outputs; i++) {
            valid[model->steps[index].outputs[i]] = side;
        }
    }
}

/* What the CPU does inside of the next instruction, or hands to it in a form of its own, must be on the CPU, as that is. */
static void separate_absorbed(ingot_model *model) {
    const uint8_t *takes = model->backend->takes;
    for (uint32_t index = 0; index + 1 < model->step_count; index++) {
        if (model->steps[index].absorbed && takes[index] != takes[index + 1]) {
            model->steps[index].absorbed = model->steps[index].absorbed_always = false;
            model->steps[index + 1].absorbed_step = -1;
        }
        model->steps[index].feeds = model->steps[index].feeds && takes[index] == takes[index + 1];
    }
}

/* Keys and values are in one place: attentions run there together or not at all. */
static void settle_attentions(const ingot_model *model, ingot_backend_model *backend) {
    bool all = true;
    for (uint32_t index = 0; index < model->step_count; index++) {
        all = all && (model->steps[index].opcode != INGOT_OPCODE_ATTENTION || backend->takes[index] != 0);
    }
    for (uint32_t index = 0; index < model->step_count && !all; index++) {
        if (model->steps[index].opcode == INGOT_OPCODE_ATTENTION) {
            backend->takes[index] = 0;
        }
    }
    backend->keeps_state = all && model->state_count != 0;
}

static ingot_status allocate(const ingot_model *model, ingot_backend_model *backend) {
    uint64_t operands = 1;
    for (uint32_t index = 0; index < model->step_count; index++) {
        operands += model->file.instructions[model->file.step_first + index].inputs;
    }
    backend->takes = calloc(model->step_count, 1);
    backend->segments = calloc(model->step_count, sizeof *backend->segments);
    backend->transfers = calloc(operands, sizeof *backend->transfers);
    if (backend->takes == NULL || backend->segments == NULL || backend->transfers == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for the segments of a program");
    }
    return INGOT_OK;
}

static ingot_status open_program(const ingot_model *model, const ingot_open_config *config, const char *path,
                                 ingot_backend_model *backend) {
    const ingot_file *file = &model->file;
    const ingot_backend_program program = {
        .instructions = file->instructions + file->step_first,
        .instruction_count = file->step_count,
        .tensor_count = file->tensor_count,
        .tensors = file->tensors,
        .operands = file->operands,
        .parameters = file->parameters,
        .plan = file->plan,
        .input = file->step_input,
        .output = file->step_output,
        .weights = file->weights,
        .weights_size = file->weights_size,
        .weights_offset = file->weights_offset,
        .descriptor = ingot_platform_open_same(path, file->data, sizeof(ingot_header)),
    };
    const ingot_backend_options options = {.device = config->device,
                                           .memory_limit = config->device_memory_limit,
                                           .cache_folder = config->cache_folder,
                                           .progress = config->progress};
    ingot_status status = backend->api->model_open(&program, &options, backend->takes, &backend->model);
    ingot_platform_close(program.descriptor);
    return status == INGOT_OK ? INGOT_OK : failed(backend->api, status);
}

ingot_status ingot_backend_prepare(ingot_model *model, const ingot_open_config *config, const char *path) {
    if (config->backend == NULL || strcmp(config->backend, "cpu") == 0) {
        return INGOT_OK;
    }
    ingot_backend_model *backend = calloc(1, sizeof *backend);
    uint8_t *valid = calloc(model->file.tensor_count, 1);
    if (backend == NULL || valid == NULL) {
        free(backend);
        free(valid);
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a backend");
    }
    model->backend = backend;
    backend->process = ingot_platform_process();
    ingot_status status = allocate(model, backend);
    status = status == INGOT_OK ? load(config->backend, &backend->library, &backend->api) : status;
    status = status == INGOT_OK ? open_program(model, config, path, backend) : status;
    if (status == INGOT_OK) {
        settle_attentions(model, backend);
        cut_segments(model, backend, valid);
        separate_absorbed(model);
    }
    free(valid);
    return status;
}

void ingot_backend_discard(ingot_backend_model *backend) {
    if (backend == NULL) {
        return;
    }
    if (backend->model != NULL && backend->process == ingot_platform_process()) {
        backend->api->model_close(backend->model);
    }
    if (backend->api != NULL) {
        ingot_platform_unload(backend->library);
    }
    free(backend->takes);
    free(backend->segments);
    free(backend->transfers);
    free(backend);
}

ingot_status ingot_model_taken(const ingot_model *model, uint8_t *taken, uint32_t capacity) {
    if (model == NULL || taken == NULL || capacity < model->step_count) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_model_taken: room for %u instructions is needed",
                          model == NULL ? 0 : model->step_count);
    }
    for (uint32_t index = 0; index < model->step_count; index++) {
        taken[index] = model->backend == NULL ? 0 : model->backend->takes[index];
    }
    return INGOT_OK;
}

static void describe(const ingot_backend_device *found, ingot_device_info *info) {
    info->kind = found->kind;
    info->vendor = found->vendor;
    info->id = found->id;
    info->driver_version = found->driver_version;
    info->memory_bytes = found->memory_bytes;
    snprintf(info->name, sizeof info->name, "%s", found->name);
    snprintf(info->driver, sizeof info->driver, "%s", found->driver);
    snprintf(info->refused, sizeof info->refused, "%s", found->refused);
    snprintf(info->features, sizeof info->features, "%s", found->features);
}

ingot_status ingot_backend_device_get(const char *backend, uint32_t device, ingot_device_info *info, uint32_t *count) {
    if (backend == NULL || count == NULL || info == NULL || info->struct_size != sizeof *info) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_backend_device_get: info->struct_size must be %zu",
                          sizeof *info);
    }
    void *library = NULL;
    const ingot_backend *api = NULL;
    ingot_status status = load(backend, &library, &api);
    if (status != INGOT_OK) {
        return status;
    }
    *count = api->device_count();
    if (*count == 0) {
        snprintf(info->refused, sizeof info->refused, "%s", api->last_error());
    }
    ingot_backend_device found = {.kind = 0};
    status = device < *count ? api->device_info(device, &found) : INGOT_OK;
    if (status != INGOT_OK) {
        status = failed(api, status);
    } else if (device < *count) {
        describe(&found, info);
    }
    ingot_platform_unload(library);
    return status;
}
