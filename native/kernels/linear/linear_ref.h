/* SPDX-License-Identifier: Apache-2.0 */
/* The formula of linear.h, one output at a time. Included by the ref files only. */
#ifndef INGOT_KERNELS_LINEAR_REF_H
#define INGOT_KERNELS_LINEAR_REF_H

#include <math.h>

#include "ingot_format.h"
#include "kernels/half.h"
#include "kernels/linear/linear_blocks.h"

static inline float load_half(const uint8_t *bytes) {
    return ingot_half_to_float((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* ---- the code of (row, k), k in 0..31 of a block ---- */

/* Row and k of the byte, and which half of it: layout T16, then T16_K8. */
static inline uint32_t nibble(const uint8_t *codes, uint32_t row, uint32_t k) {
    const uint8_t byte = codes[LINEAR_CHUNK * (k / 8) + 4 * row + k % 4];
    return k % 8 < 4 ? byte & 15u : byte >> 4;
}
static inline uint32_t nibble_k8(const uint8_t *codes, uint32_t row, uint32_t k) {
    const uint8_t byte = codes[LINEAR_CHUNK * (k / 8) + 16 * (row / 4) + 8 * (row % 2) + k % 8];
    return row % 4 < 2 ? byte & 15u : byte >> 4;
}

static inline uint32_t pair(const uint8_t *codes, uint32_t row, uint32_t k) {
    return codes[LINEAR_CHUNK * (k / 16) + 4 * row + k % 4] >> (2 * (k % 16 / 4)) & 3u;
}

static inline uint32_t bit(const uint8_t *codes, uint32_t row, uint32_t k) {
    return codes[4 * row + k % 4] >> (k / 4) & 1u;
}

static inline uint32_t triple(const uint8_t *codes, uint32_t row, uint32_t k) {
    const uint32_t quad = k / 4;
    const uint8_t *byte = codes + 4 * row + k % 4, last = byte[2 * LINEAR_CHUNK];
    if (quad < 6) return byte[LINEAR_CHUNK * (quad / 2)] >> (3 * (quad % 2)) & 7u;
    return (uint32_t)(byte[LINEAR_CHUNK * (quad - 6)] >> 6 | (last >> quad & 1) << 2);
}

/* ---- all stored blocks of a tile in ascending k ---- */

typedef struct linear_walk {
    const ingot_linear_args *args;
    linear_format format;
    linear_tile tile;
    uint32_t next; /* superblock */
    linear_superblock superblock;
    uint32_t block; /* of the superblock */
} linear_walk;

static inline linear_walk walk_tile(const ingot_linear_args *args, uint32_t tile, linear_format format) {
    return (linear_walk){.args = args, .format = format, .tile = linear_find_tile(args, tile, format)};
}

static inline bool next_block(linear_walk *walk, linear_block *block) {
    if (walk->block == walk->superblock.blocks) {
        if (walk->next == walk->tile.count) return false;
        walk->superblock = linear_find_superblock(walk->args, &walk->tile, walk->next++, walk->format);
        walk->block = 0;
    }
    *block = linear_find_block(walk->args, &walk->superblock, walk->block++, walk->format);
    return true;
}

/* ---- outputs ---- */

/* The activations of one block and token. */
static inline const int8_t *activations(const ingot_linear_args *args, linear_block block, uint32_t token) {
    return args->a + token * args->a_stride + LINEAR_BLOCK * (size_t)block.index;
}
static inline float activation_scale(const ingot_linear_args *args, linear_block block, uint32_t token) {
    return args->a_scale[token * args->s_stride + block.index];
}
static inline int32_t activation_sum(const ingot_linear_args *args, linear_block block, uint32_t token) {
    return args->a_sum[token * args->s_stride + block.index];
}

/* One output: a row of one tile with the activations of one token. */
typedef float (*output_fn)(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token);

static inline void for_each_output(const ingot_linear_args *args, output_fn output) {
    for (uint32_t token = 0; token < args->m; token++) {
        for (uint32_t tile = args->tile_begin; tile < args->tile_end; tile++) {
            for (uint32_t row = 0; row < LINEAR_ROWS; row++) {
                linear_out(args, tile, token)[row] = output(args, tile, row, token);
            }
        }
    }
}

/* The index into the codebook of (row, k) of a block. */
typedef uint32_t (*code_fn)(const uint8_t *codes, uint32_t row, uint32_t k);

static inline float codebook_output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token,
                                    linear_format format, code_fn code) {
    float acc = 0.0f;
    linear_walk walk = walk_tile(args, tile, format);
    for (linear_block block; next_block(&walk, &block);) {
        const int8_t *a = activations(args, block, token);
        int32_t dot = 0;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) dot += args->codebook[code(block.codes, row, k)] * a[k];
        const int32_t shifted = block.scales[row] & 1, bits = block.scales[row] >> 1;
        const int32_t sub_scale = bits < 64 ? bits : bits - 128;
        dot += shifted * args->delta * activation_sum(args, block, token);
        acc = fmaf((float)(dot * sub_scale), activation_scale(args, block, token), acc);
    }
    return acc * load_half(walk.tile.head + 2 * row);
}

#endif
