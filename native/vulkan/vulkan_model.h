/* SPDX-License-Identifier: Apache-2.0 */
/* A file on a device: what is taken, and where its weights lie. */
#ifndef INGOT_VULKAN_MODEL_H
#define INGOT_VULKAN_MODEL_H

#include "vulkan/vulkan_memory.h"

/* A run of whole tiles of a tensor that one binding reaches; of a constant, all of it. */
typedef struct ingot_vulkan_piece {
    VkBuffer buffer;
    uint64_t offset; /* of the binding, aligned as the device wants it */
    uint64_t range;
    uint32_t shift; /* bytes from there to the data */
    uint32_t first_tile, tiles;
    uint64_t begin, bytes; /* of the tensor */
} ingot_vulkan_piece;

typedef struct ingot_vulkan_pieces {
    uint32_t first, count; /* of the model's pieces; count 0: the tensor is not on the device */
    uint32_t first_offset; /* of the model's tile offsets, if the tensor is sparse */
} ingot_vulkan_pieces;

typedef struct ingot_vulkan_model {
    ingot_vulkan_device device;
    ingot_backend_program program;
    uint8_t *takes;               /* (instruction_count) */
    ingot_vulkan_pieces *tensors; /* (tensor_count) */
    ingot_vulkan_piece *pieces;
    uint32_t piece_count;
    uint32_t *tile_offsets; /* of sparse tensors, in 16 bytes: each tile and the end */
    uint32_t tile_offset_count;
    ingot_vulkan_buffer offsets; /* the same on the device */
    ingot_vulkan_buffer *segments; /* of weights; one where they are imported */
    uint32_t segment_count;
    uint64_t uploaded, imported; /* bytes */
    uint32_t widest_k;           /* of a linear that is taken, padded to 128 */
    bool per_token;              /* some linear has t2 */
} ingot_vulkan_model;

ingot_status ingot_vulkan_model_open(const ingot_backend_program *program, const ingot_backend_options *options,
                                     uint8_t *takes, void **model);
void ingot_vulkan_model_close(void *model);

/** Sets takes[i] for each instruction. */
void ingot_vulkan_take(const ingot_backend_program *program, uint64_t range, uint8_t *takes);
/** Imports the weights or uploads those that taken instructions read, in pieces. */
ingot_status ingot_vulkan_weights_open(ingot_vulkan_model *model, const ingot_backend_options *options);

static inline const uint32_t *ingot_vulkan_operands(const ingot_backend_program *program, uint32_t instruction) {
    return program->operands + program->instructions[instruction].first_operand;
}

static inline const void *ingot_vulkan_parameters(const ingot_backend_program *program, uint32_t instruction) {
    return program->parameters + program->instructions[instruction].parameters_offset;
}

#endif
