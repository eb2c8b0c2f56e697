/* SPDX-License-Identifier: Apache-2.0 */
/* Weights: the file's own pages where the driver takes them, else copies. Tensors are cut at tile borders below what one
 * binding reaches. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/layout.h"
#include "vulkan/vulkan_model.h"

enum { TILES_OF_CUT = 4, UPLOAD_ROOM = 8 << 20, MOST_SEGMENT = 1 << 30 };

/* A gate and its up, and the four tiles of a workgroup, stay together. */
static uint64_t cut_bytes(const ingot_tensor_record *record) {
    return record->role == INGOT_ROLE_CONSTANT
               ? record->size
               : TILES_OF_CUT * ingot_tile_bytes(record->dtype, record->shape[1], record->group);
}

/* Bytes of a piece but the last. */
static uint64_t piece_bytes(const ingot_vulkan_model *model, const ingot_tensor_record *record) {
    const uint64_t cut = cut_bytes(record), room = model->device.range - INGOT_TENSOR_ALIGNMENT;
    return room < cut ? cut : room / cut * cut;
}

static void mark_tensors(ingot_vulkan_model *model) {
    const ingot_backend_program *program = &model->program;
    for (uint32_t i = 0; i < program->instruction_count; i++) {
        const uint32_t *operands = ingot_vulkan_operands(program, i);
        for (uint32_t j = 0; model->takes[i] && j < program->instructions[i].inputs; j++) {
            const ingot_tensor_record *record = &program->tensors[operands[j]];
            if (record->role == INGOT_ROLE_WEIGHT || record->role == INGOT_ROLE_CONSTANT) {
                const uint64_t size = piece_bytes(model, record);
                model->tensors[operands[j]].count = (uint32_t)((record->size + size - 1) / size);
            }
        }
    }
}

static ingot_status make_pieces(ingot_vulkan_model *model) {
    mark_tensors(model);
    for (uint32_t i = 0; i < model->program.tensor_count; i++) {
        model->tensors[i].first = model->piece_count;
        model->piece_count += model->tensors[i].count;
        if (model->tensors[i].count != 0 && cut_bytes(&model->program.tensors[i]) > model->device.range - 256) {
            return ingot_vulkan_fail(
                INGOT_ERROR_HARDWARE, "tensor %u: %llu bytes in one piece, the device binds at most %llu", i,
                (unsigned long long)cut_bytes(&model->program.tensors[i]), (unsigned long long)model->device.range);
        }
    }
    model->pieces = calloc(model->piece_count + 1, sizeof *model->pieces);
    return model->pieces != NULL ? INGOT_OK : ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for pieces");
}

/* Piece j of a tensor, whose bytes start at `place` of a buffer. */
static void set_piece(ingot_vulkan_model *model, uint32_t tensor, uint32_t j, VkBuffer buffer, uint64_t place) {
    const ingot_tensor_record *record = &model->program.tensors[tensor];
    const uint64_t size = piece_bytes(model, record), begin = j * size, cut = cut_bytes(record) / TILES_OF_CUT;
    const uint64_t bytes = record->size - begin < size ? record->size - begin : size;
    const uint64_t offset = place / model->device.alignment * model->device.alignment;
    const bool tiled = record->role == INGOT_ROLE_WEIGHT;
    model->pieces[model->tensors[tensor].first + j] = (ingot_vulkan_piece){
        .buffer = buffer,
        .offset = offset,
        .range = place - offset + bytes,
        .shift = (uint32_t)(place - offset),
        .first_tile = tiled ? (uint32_t)(begin / cut) : 0,
        .tiles = tiled ? (uint32_t)(bytes / cut) : 0,
    };
}

static bool try_import(ingot_vulkan_model *model) {
    const ingot_backend_program *program = &model->program;
    const uint64_t unit = model->device.traits.import_alignment, page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (unit == 0 || unit > page || (uintptr_t)program->weights % unit != 0 || ingot_vulkan_wanted("NO_IMPORT") ||
        program->weights_size > model->device.traits.largest_allocation ||
        model->device.vk.GetMemoryHostPointerPropertiesEXT == NULL) {
        return false;
    }
    if (ingot_vulkan_buffer_import(&model->device, program->weights, program->weights_size, &model->segments[0]) !=
        INGOT_OK) {
        return false; /* read-only pages: not every driver takes them */
    }
    model->segment_count = 1;
    model->imported = program->weights_size;
    for (uint32_t i = 0; i < program->tensor_count; i++) {
        for (uint32_t j = 0; j < model->tensors[i].count; j++) {
            const uint64_t size = piece_bytes(model, &program->tensors[i]);
            set_piece(model, i, j, model->segments[0].buffer, program->tensors[i].offset + j * size);
        }
    }
    return true;
}

/* A walk over all pieces: first it counts what segments hold, then it fills them. */
typedef struct upload {
    ingot_vulkan_transfer transfer;
    uint64_t most; /* bytes of a segment */
    uint64_t place; /* in the present one */
    uint32_t segment;
    bool filling;
} upload;

static ingot_status place_piece(ingot_vulkan_model *model, upload *to, uint32_t tensor, uint32_t j) {
    const ingot_tensor_record *record = &model->program.tensors[tensor];
    const uint64_t size = piece_bytes(model, record), begin = j * size;
    const uint64_t bytes = record->size - begin < size ? record->size - begin : size;
    if (to->place != 0 && to->place + bytes > to->most) {
        to->segment++;
        to->place = 0;
    }
    const uint64_t place = to->place;
    to->place = ingot_round_up(place + bytes, INGOT_TENSOR_ALIGNMENT);
    if (!to->filling) {
        model->segments[to->segment].size = to->place;
        return INGOT_OK;
    }
    set_piece(model, tensor, j, model->segments[to->segment].buffer, place);
    return ingot_vulkan_copy_in(&model->device, &to->transfer, &model->segments[to->segment], place,
                                model->program.weights + record->offset + begin, bytes);
}

static ingot_status walk(ingot_vulkan_model *model, upload *to, bool filling) {
    ingot_status status = INGOT_OK;
    to->segment = 0;
    to->place = 0;
    to->filling = filling;
    for (uint32_t i = 0; i < model->program.tensor_count && status == INGOT_OK; i++) {
        for (uint32_t j = 0; j < model->tensors[i].count && status == INGOT_OK; j++) {
            status = place_piece(model, to, i, j);
        }
    }
    return status;
}

static ingot_status open_segments(ingot_vulkan_model *model, uint32_t count, uint64_t memory_limit) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += model->segments[i].size;
    }
    if (memory_limit != 0 && total > memory_limit) {
        return ingot_vulkan_fail(INGOT_ERROR_MEMORY_LIMIT, "weights of %llu bytes, the limit is %llu",
                                 (unsigned long long)total, (unsigned long long)memory_limit);
    }
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; i < count && status == INGOT_OK; i++) {
        const uint64_t size = model->segments[i].size;
        status = ingot_vulkan_buffer_open(&model->device, size, INGOT_VULKAN_DEVICE, &model->segments[i]);
        model->segment_count = status == INGOT_OK ? i + 1 : i;
    }
    model->uploaded = total;
    return status;
}

ingot_status ingot_vulkan_weights_open(ingot_vulkan_model *model, uint64_t memory_limit) {
    ingot_status status = make_pieces(model);
    if (status != INGOT_OK) {
        return status;
    }
    model->segments = calloc(model->piece_count + 1, sizeof *model->segments); /* at most one of each piece */
    if (model->segments == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for segments");
    }
    if (model->piece_count == 0 || try_import(model)) {
        return INGOT_OK;
    }
    const uint64_t largest = model->device.traits.largest_allocation;
    upload to = {.most = largest != 0 && largest < MOST_SEGMENT ? largest : MOST_SEGMENT};
    status = walk(model, &to, false);
    status = status == INGOT_OK ? open_segments(model, to.segment + 1, memory_limit) : status;
    if (status == INGOT_OK) {
        status = ingot_vulkan_transfer_open(&model->device, UPLOAD_ROOM, &to.transfer);
        status = status == INGOT_OK ? walk(model, &to, true) : status;
        ingot_vulkan_transfer_close(&model->device, &to.transfer);
    }
    return status;
}
