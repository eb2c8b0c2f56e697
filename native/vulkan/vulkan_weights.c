/* SPDX-License-Identifier: Apache-2.0 */
/* Weights: the file's own pages where the driver takes them, else copies. Tensors are cut at tile borders below what one
 * binding reaches. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/layout.h"
#include "vulkan/vulkan_model.h"

enum {
    TILES_OF_CUT = 4,
    UPLOAD_ROOM = 8 << 20,
    MOST_SEGMENT = 1 << 30,
    UNIT = 16,
    PADDING = 512 /* what a buffer may take beyond its bytes */
};

static uint32_t tiles_of(const ingot_tensor_record *record) {
    return record->role == INGOT_ROLE_WEIGHT ? (uint32_t)((record->shape[0] + INGOT_TILE_ROWS - 1) / INGOT_TILE_ROWS)
                                             : 1;
}

/* Where a tile of a tensor starts, or (tile = tiles_of) ends. */
static uint64_t tile_at(const ingot_vulkan_model *model, uint32_t tensor, uint32_t tile) {
    const ingot_tensor_record *record = &model->program.tensors[tensor];
    if (record->sparsity != INGOT_SPARSITY_DENSE) {
        return (uint64_t)model->tile_offsets[model->tensors[tensor].first_offset + tile] * UNIT;
    }
    return record->role == INGOT_ROLE_WEIGHT ? tile * ingot_tile_bytes(record->dtype, record->shape[1], record->group)
                                             : tile * record->size;
}

/* A gate and its up, and the four tiles of a workgroup, stay together. Writes pieces unless they are NULL.
 * @return how many there are, 0 if four tiles are too long for a binding. */
static uint32_t cut_tensor(const ingot_vulkan_model *model, uint32_t tensor, ingot_vulkan_piece *pieces) {
    const uint32_t tiles = tiles_of(&model->program.tensors[tensor]);
    const uint64_t largest = model->device.traits.largest_allocation, range = model->device.range;
    const uint64_t most = largest != 0 && largest - PADDING < range ? largest - PADDING : range;
    const uint64_t room = most - INGOT_TENSOR_ALIGNMENT;
    uint32_t count = 0;
    for (uint32_t first = 0, end; first < tiles; first = end) {
        const uint64_t begin = tile_at(model, tensor, first);
        end = first;
        for (uint32_t next = first; next < tiles;) {
            next = tiles - next < TILES_OF_CUT ? tiles : next + TILES_OF_CUT;
            if (tile_at(model, tensor, next) - begin > room) {
                break;
            }
            end = next;
        }
        if (end == first) {
            return 0;
        }
        if (pieces != NULL) {
            pieces[count] = (ingot_vulkan_piece){.first_tile = first,
                                                 .tiles = end - first,
                                                 .begin = begin,
                                                 .bytes = tile_at(model, tensor, end) - begin};
        }
        count++;
    }
    return count;
}

/* Tensors of the model that instructions which are taken read, marked by a count of 1. */
static void mark_tensors(ingot_vulkan_model *model) {
    const ingot_backend_program *program = &model->program;
    for (uint32_t i = 0; i < program->instruction_count; i++) {
        const uint32_t *operands = ingot_vulkan_operands(program, i);
        for (uint32_t j = 0; model->takes[i] && j < program->instructions[i].inputs; j++) {
            const ingot_tensor_record *record = &program->tensors[operands[j]];
            if (record->role == INGOT_ROLE_WEIGHT || record->role == INGOT_ROLE_CONSTANT) {
                model->tensors[operands[j]].count = 1;
            }
        }
    }
}

/* Tile offsets of a sparse tensor, from its lists. */
static ingot_status walk_lists(ingot_vulkan_model *model, uint32_t tensor) {
    const ingot_tensor_record *record = &model->program.tensors[tensor];
    const uint32_t tiles = tiles_of(record);
    uint64_t *offsets = calloc(tiles + 1, sizeof *offsets);
    ingot_status status = INGOT_OK;
    if (offsets == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for the tiles of a tensor");
    }
    if (!ingot_sparse_walk(record->dtype, record->shape[0], record->shape[1], record->group,
                           model->program.weights + record->offset, record->size, offsets)) {
        status = ingot_vulkan_fail(INGOT_ERROR_FORMAT, "tensor %u: a list of superblocks is out of order", tensor);
    }
    for (uint32_t i = 0; i <= tiles && status == INGOT_OK; i++) {
        model->tile_offsets[model->tensors[tensor].first_offset + i] = (uint32_t)(offsets[i] / UNIT);
    }
    free(offsets);
    return status;
}

static ingot_status make_tile_offsets(ingot_vulkan_model *model) {
    const ingot_backend_program *program = &model->program;
    uint32_t count = 0;
    for (uint32_t i = 0; i < program->tensor_count; i++) {
        if (model->tensors[i].count != 0 && program->tensors[i].sparsity != INGOT_SPARSITY_DENSE) {
            model->tensors[i].first_offset = count;
            count += tiles_of(&program->tensors[i]) + 1;
        }
    }
    if (count == 0) {
        return INGOT_OK;
    }
    model->tile_offsets = calloc(count, sizeof *model->tile_offsets);
    if (model->tile_offsets == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for the tiles of %u tensors", count);
    }
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; i < program->tensor_count && status == INGOT_OK; i++) {
        if (model->tensors[i].count != 0 && program->tensors[i].sparsity != INGOT_SPARSITY_DENSE) {
            status = walk_lists(model, i);
        }
    }
    const uint64_t bytes = count * sizeof *model->tile_offsets;
    status = status == INGOT_OK ? ingot_vulkan_buffer_open(&model->device, bytes, INGOT_VULKAN_DEVICE, &model->offsets)
                                : status;
    if (status == INGOT_OK) {
        model->tile_offset_count = count;
        ingot_vulkan_transfer transfer;
        status = ingot_vulkan_transfer_open(&model->device, bytes, &transfer);
        status = status == INGOT_OK
                     ? ingot_vulkan_copy_in(&model->device, &transfer, &model->offsets, 0, model->tile_offsets, bytes)
                     : status;
        ingot_vulkan_transfer_close(&model->device, &transfer);
    }
    return status;
}

static ingot_status make_pieces(ingot_vulkan_model *model) {
    mark_tensors(model);
    ingot_status status = make_tile_offsets(model);
    for (uint32_t i = 0; i < model->program.tensor_count && status == INGOT_OK; i++) {
        model->tensors[i].first = model->piece_count;
        if (model->tensors[i].count == 0) {
            continue;
        }
        model->tensors[i].count = cut_tensor(model, i, NULL);
        model->piece_count += model->tensors[i].count;
        if (model->tensors[i].count == 0) {
            return ingot_vulkan_fail(INGOT_ERROR_HARDWARE,
                                     "tensor %u: four tiles in one piece are more than the %llu bytes that the device"
                                     " binds",
                                     i, (unsigned long long)model->device.range);
        }
    }
    model->pieces = calloc(model->piece_count + 1, sizeof *model->pieces);
    if (status == INGOT_OK && model->pieces == NULL) {
        status = ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for pieces");
    }
    for (uint32_t i = 0; i < model->program.tensor_count && status == INGOT_OK; i++) {
        if (model->tensors[i].count != 0) {
            (void)cut_tensor(model, i, model->pieces + model->tensors[i].first);
        }
    }
    return status;
}

/* Where a piece lies: its bytes start at `place` of a buffer. */
static void set_piece(const ingot_vulkan_model *model, ingot_vulkan_piece *piece, VkBuffer buffer, uint64_t place) {
    piece->buffer = buffer;
    piece->offset = place / model->device.alignment * model->device.alignment;
    piece->shift = (uint32_t)(place - piece->offset);
    piece->range = piece->shift + piece->bytes;
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
            ingot_vulkan_piece *piece = &model->pieces[model->tensors[i].first + j];
            set_piece(model, piece, model->segments[0].buffer, program->tensors[i].offset + piece->begin);
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
    uint64_t done; /* bytes uploaded */
    const ingot_backend_options *options;
} upload;

static ingot_status place_piece(ingot_vulkan_model *model, upload *to, uint32_t tensor, uint32_t j) {
    ingot_vulkan_piece *piece = &model->pieces[model->tensors[tensor].first + j];
    const uint64_t bytes = piece->bytes;
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
    set_piece(model, piece, model->segments[to->segment].buffer, place);
    to->done += bytes;
    ingot_backend_progress(to->options, to->done, model->uploaded);
    return ingot_vulkan_copy_in(&model->device, &to->transfer, &model->segments[to->segment], place,
                                model->program.weights + model->program.tensors[tensor].offset + piece->begin, bytes);
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

ingot_status ingot_vulkan_weights_open(ingot_vulkan_model *model, const ingot_backend_options *options) {
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
    upload to = {.most = largest != 0 && largest - PADDING < MOST_SEGMENT ? largest - PADDING : MOST_SEGMENT,
                 .options = options};
    status = walk(model, &to, false);
    status = status == INGOT_OK ? open_segments(model, to.segment + 1, options->memory_limit) : status;
    if (status == INGOT_OK) {
        status = ingot_vulkan_transfer_open(&model->device, UPLOAD_ROOM, &to.transfer);
        status = status == INGOT_OK ? walk(model, &to, true) : status;
        ingot_backend_progress(options, model->uploaded, model->uploaded); /* padding as well */
        ingot_vulkan_transfer_close(&model->device, &to.transfer);
    }
    return status;
}
