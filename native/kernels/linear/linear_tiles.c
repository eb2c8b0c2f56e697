/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_tiles.h"

#include "ingot_format.h"
#include "kernels/linear/linear_blocks.h"

static linear_format format_of(uint32_t dtype) {
    switch (dtype) {
        case INGOT_DTYPE_Q8: return LINEAR_Q8;
        case INGOT_DTYPE_Q6: return LINEAR_Q6;
        case INGOT_DTYPE_C5: return LINEAR_C5;
        case INGOT_DTYPE_Q4: return LINEAR_Q4;
        case INGOT_DTYPE_Q4Z: return LINEAR_Q4Z;
        case INGOT_DTYPE_C4: return LINEAR_C4;
        case INGOT_DTYPE_C3: return LINEAR_C3;
        case INGOT_DTYPE_C2: return LINEAR_C2;
        case INGOT_DTYPE_T2: return LINEAR_T2;
        default: return LINEAR_F16; /* callers have the dtype of a kernel */
    }
}

/* Blocks of 32 k of a row, whole groups. */
static uint32_t stored_blocks(uint32_t k, uint32_t group) {
    const uint32_t unit = group > LINEAR_BLOCK ? group : LINEAR_BLOCK;
    return (k + unit - 1) / unit * (unit / LINEAR_BLOCK);
}

uint64_t ingot_linear_dense_bytes(uint32_t dtype, uint32_t k, uint32_t group) {
    return linear_tile_bytes_of(format_of(dtype), group, stored_blocks(k, group));
}

uint64_t ingot_linear_sparse_bytes(uint32_t dtype, uint32_t k, uint32_t group, const uint8_t *tile, uint64_t room) {
    const linear_format format = format_of(dtype);
    const uint32_t shift = linear_superblock_shift(format, group), blocks = stored_blocks(k, group);
    const uint32_t superblocks = (blocks + (1u << shift) - 1) >> shift;
    uint32_t count, next = 0;
    if (room < LINEAR_CHUNK) return 0;
    memcpy(&count, tile, sizeof count);
    const uint64_t list = (sizeof count + 2 * (uint64_t)count + 63) / 64 * 64;
    if (count > superblocks || list > room) return 0;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t index;
        memcpy(&index, tile + sizeof count + 2 * (size_t)i, sizeof index);
        if (index >= superblocks || index < next) return 0;
        next = index + 1u;
    }
    const uint32_t missing = count > 0 && next == superblocks ? (superblocks << shift) - blocks : 0;
    const uint64_t bytes = list + linear_tile_bytes_of(format, group, (count << shift) - missing);
    return bytes <= room ? bytes : 0;
}
