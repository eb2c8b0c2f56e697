/* SPDX-License-Identifier: Apache-2.0 */
/* Where the weights of one block (32 k of a tile) lie; see linear.h for the layout. Included by kernel files only. */
#ifndef INGOT_KERNELS_LINEAR_BLOCKS_H
#define INGOT_KERNELS_LINEAR_BLOCKS_H

#include <stdbool.h>
#include <string.h>

#include "kernels/dispatch.h"
#include "kernels/linear/linear.h"

enum { LINEAR_ROWS = 16, LINEAR_BLOCK = 32, LINEAR_CHUNK = 64, LINEAR_HEAD = 64 };

/* A constant in every kernel, so that its branches are decided at compile time. */
typedef enum linear_format {
    LINEAR_F16,
    LINEAR_Q8,
    LINEAR_Q6,
    LINEAR_C5,
    LINEAR_Q4,
    LINEAR_Q4Z,
    LINEAR_C4,
    LINEAR_C3,
    LINEAR_C2,
    LINEAR_T2,
} linear_format;

/* Formats whose dot product is of codebook entries. */
static inline bool linear_has_codebook(linear_format f) {
    return f == LINEAR_C5 || f == LINEAR_C4 || f == LINEAR_C3 || f == LINEAR_C2;
}

/* Formats with an integer sub-scale per group, one byte, and an f16 scale per row. */
static inline bool linear_has_sub_scale(linear_format f) { return f == LINEAR_Q6 || linear_has_codebook(f); }

static inline uint32_t linear_head_bytes(linear_format f) {
    return linear_has_sub_scale(f) || f == LINEAR_T2 ? LINEAR_HEAD : 0;
}

static inline uint32_t linear_block_bytes(linear_format f) {
    switch (f) {
        case LINEAR_F16: return 16 * LINEAR_CHUNK;
        case LINEAR_Q8: return 8 * LINEAR_CHUNK;
        case LINEAR_Q6: return 6 * LINEAR_CHUNK;
        case LINEAR_C5: return 5 * LINEAR_CHUNK;
        case LINEAR_C3: return 3 * LINEAR_CHUNK;
        case LINEAR_C2:
        case LINEAR_T2: return 2 * LINEAR_CHUNK;
        default: return 4 * LINEAR_CHUNK;
    }
}

/* log2 of the blocks of a group of q4 and q4z: 32, 64, 128 k give 0, 1, 2; other formats have one scale per block. */
static inline uint32_t linear_group_shift(linear_format f, uint32_t group) {
    return f == LINEAR_Q4 || f == LINEAR_Q4Z ? group / 64 : 0;
}

/* log2 of the blocks of a superblock. */
static inline uint32_t linear_superblock_shift(linear_format f, uint32_t group) {
    const uint32_t groups = f == LINEAR_F16 ? 0 : f == LINEAR_Q8 || f == LINEAR_Q4 || f == LINEAR_T2 ? 1 : 2;
    return groups + linear_group_shift(f, group);
}

/* Bytes of scales (and zeros) of one group. */
static inline uint32_t linear_scale_bytes(linear_format f) {
    if (f == LINEAR_F16 || f == LINEAR_T2) return 0;
    if (f == LINEAR_Q4Z) return 48;
    return linear_has_sub_scale(f) ? 16 : 32;
}

/* Bytes of all scales of a superblock of `blocks` blocks, padded to 64. */
static inline uint32_t linear_meta_bytes(linear_format f, uint32_t group, uint32_t blocks) {
    const uint32_t shift = linear_group_shift(f, group), groups = (blocks + (1u << shift) - 1) >> shift;
    return (groups * linear_scale_bytes(f) + 63) / 64 * 64;
}

/* Bytes of a tile without its list: head and `blocks` blocks, superblock by superblock. */
static inline uint64_t linear_tile_bytes_of(linear_format f, uint32_t group, uint32_t blocks) {
    const uint32_t shift = linear_superblock_shift(f, group), whole = blocks >> shift;
    const uint64_t meta = (uint64_t)whole * linear_meta_bytes(f, group, 1u << shift);
    const uint32_t rest = blocks - (whole << shift);
    return linear_head_bytes(f) + meta + linear_meta_bytes(f, group, rest) + (uint64_t)blocks * linear_block_bytes(f);
}

/* A superblock: blocks [first, first + blocks) of the tile. */
typedef struct linear_superblock {
    const uint8_t *meta;
    const uint8_t *codes;
    uint32_t first;
    uint32_t blocks;
} linear_superblock;

/* A tile and those of its superblocks that are stored: all of them, or those of a list. */
typedef struct linear_tile {
    const uint8_t *head; /* row scales, where the format has them */
    const uint8_t *superblocks;
    const uint8_t *list; /* u16 indices; NULL: dense */
    uint32_t count;
} linear_tile;

static inline linear_tile linear_find_tile(const ingot_linear_args *args, uint32_t tile, linear_format f) {
    const uint32_t shift = linear_superblock_shift(f, args->group), blocks = args->k / LINEAR_BLOCK;
    linear_tile found = {.count = (blocks + (1u << shift) - 1) >> shift};
    if (args->tile_offsets == NULL) {
        found.head = args->weights + tile * args->tile_bytes;
    } else {
        const uint8_t *start = args->weights + args->tile_offsets[tile];
        memcpy(&found.count, start, sizeof found.count);
        found.list = start + sizeof found.count;
        found.head = start + (sizeof found.count + 2 * (size_t)found.count + 63) / 64 * 64;
    }
    found.superblocks = found.head + linear_head_bytes(f);
    return found;
}

/* The stored superblock number i. Only the last of a tile may be short, so all before it are of one size. */
static inline linear_superblock linear_find_superblock(const ingot_linear_args *args, const linear_tile *tile,
                                                       uint32_t i, linear_format f) {
    const uint32_t shift = linear_superblock_shift(f, args->group), whole = 1u << shift;
    const size_t bytes = linear_meta_bytes(f, args->group, whole) + (size_t)whole * linear_block_bytes(f);
    uint16_t index = 0;
    if (tile->list != NULL) memcpy(&index, tile->list + 2 * (size_t)i, sizeof index);
    const uint32_t first = (tile->list != NULL ? index : i) << shift, rest = args->k / LINEAR_BLOCK - first;
    const uint32_t blocks = rest < whole ? rest : whole;
    const uint8_t *meta = tile->superblocks + i * bytes;
    return (linear_superblock){meta, meta + linear_meta_bytes(f, args->group, blocks), first, blocks};
}

typedef struct linear_block {
    const uint8_t *scales; /* of its group: 16 f16 (q4z: then 16 zeros), or 16 bytes */
    const uint8_t *codes;  /* its chunks */
    uint32_t index;        /* k is 32 * index and on */
} linear_block;

static inline linear_block linear_find_block(const ingot_linear_args *args, const linear_superblock *superblock,
                                             uint32_t b, linear_format f) {
    const uint32_t group = b >> linear_group_shift(f, args->group);
    return (linear_block){superblock->meta + (size_t)group * linear_scale_bytes(f),
                          superblock->codes + (size_t)b * linear_block_bytes(f), superblock->first + b};
}

/* First row of `tile` for `token` in out. */
static inline float *linear_out(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    return args->out + (size_t)token * args->out_stride + (size_t)LINEAR_ROWS * (tile - args->tile_begin);
}

#endif
