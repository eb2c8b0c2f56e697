/* SPDX-License-Identifier: Apache-2.0 */
/* Where the weights of one block (32 k of a tile) lie; see linear.h for the layout. Included by kernel files only. */
#ifndef INGOT_KERNELS_LINEAR_BLOCKS_H
#define INGOT_KERNELS_LINEAR_BLOCKS_H

#include "kernels/dispatch.h"
#include "kernels/linear/linear.h"

enum { LINEAR_ROWS = 16, LINEAR_BLOCK = 32, LINEAR_CHUNK = 64 };

typedef struct linear_block {
    const uint8_t *scales; /* 16 f16, or 16 bytes (c4) */
    const uint8_t *codes;  /* 8 chunks (q8), 4 chunks (q4, c4) */
} linear_block;

/* Superblock: 64 bytes of scales, two groups of 8 chunks. */
static inline linear_block linear_q8_block(const uint8_t *tile, uint32_t block) {
    const uint8_t *superblock = tile + (size_t)(block / 2) * (64 + 16 * LINEAR_CHUNK);
    return (linear_block){superblock + 32 * (block % 2), superblock + 64 + 8 * LINEAR_CHUNK * (block % 2)};
}

/* Superblock: 64 bytes of scales, two groups of 1, 2 or 4 blocks of 4 chunks. */
static inline linear_block linear_q4_block(const uint8_t *tile, uint32_t block, uint32_t group) {
    const uint32_t shift = group / 64; /* log2 of the blocks of a group: 32, 64, 128 k give 0, 1, 2 */
    const uint32_t scale = block >> shift, within = block & ((2u << shift) - 1);
    const uint8_t *superblock = tile + (size_t)(scale / 2) * (64 + (size_t)16 * group);
    return (linear_block){superblock + 32 * (scale % 2), superblock + 64 + (size_t)4 * LINEAR_CHUNK * within};
}

/* Tile head 64 bytes; superblock: 64 bytes of sub-scales, four blocks of 4 chunks. */
static inline linear_block linear_c4_block(const uint8_t *tile, uint32_t block) {
    const uint8_t *superblock = tile + 64 + (size_t)(block / 4) * (64 + 16 * LINEAR_CHUNK);
    return (linear_block){superblock + 16 * (block % 4), superblock + 64 + 4 * LINEAR_CHUNK * (block % 4)};
}

/* Superblock: 16 chunks. */
static inline const uint8_t *linear_f16_block(const uint8_t *tile, uint32_t block) {
    return tile + (size_t)block * 16 * LINEAR_CHUNK;
}

/* First row of `tile` for `token` in out. */
static inline float *linear_out(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    return args->out + (size_t)token * args->out_stride + (size_t)LINEAR_ROWS * (tile - args->tile_begin);
}

#endif
