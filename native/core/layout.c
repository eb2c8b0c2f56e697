/* SPDX-License-Identifier: Apache-2.0 */
#include "core/layout.h"

#include "ingot_format.h"

/* How a tile is built: bytes, but for `group` (k) and `groups` (of a superblock). */
typedef struct geometry {
    uint64_t group;
    uint64_t groups;
    uint64_t head;  /* once per tile */
    uint64_t meta;  /* per group, before the chunks; padded to 64 per superblock */
    uint64_t codes; /* per group */
} geometry;

bool ingot_group_valid(uint32_t dtype, uint32_t group) {
    switch (dtype) {
        case INGOT_DTYPE_F16: return group == 0;
        case INGOT_DTYPE_Q8:
        case INGOT_DTYPE_C4: return group == 32;
        case INGOT_DTYPE_Q4: return group == 32 || group == 64 || group == 128;
        default: return false;
    }
}

static geometry geometry_of(uint32_t dtype, uint64_t group) {
    switch (dtype) {
        case INGOT_DTYPE_F16: return (geometry){.group = 32, .groups = 1, .codes = 1024};
        case INGOT_DTYPE_Q8: return (geometry){.group = 32, .groups = 2, .meta = 32, .codes = 512};
        case INGOT_DTYPE_Q4: return (geometry){.group = group, .groups = 2, .meta = 32, .codes = 8 * group};
        default: return (geometry){.group = 32, .groups = 4, .head = 64, .meta = 16, .codes = 256};
    }
}

static uint64_t superblock_bytes(const geometry *g, uint64_t groups) {
    return ingot_round_up(groups * g->meta, INGOT_CHUNK_BYTES) + groups * g->codes;
}

uint64_t ingot_tile_bytes(uint32_t dtype, uint64_t k, uint32_t group) {
    if (k == 0 || k > INGOT_MAX_DIMENSION || !ingot_group_valid(dtype, group)) {
        return 0;
    }
    geometry g = geometry_of(dtype, group);
    uint64_t groups = (k + g.group - 1) / g.group;
    return g.head + groups / g.groups * superblock_bytes(&g, g.groups) + superblock_bytes(&g, groups % g.groups);
}

uint64_t ingot_packed_bytes(uint32_t dtype, uint64_t n, uint64_t k, uint32_t group) {
    uint64_t result;
    if (n > INGOT_MAX_DIMENSION) {
        return 0;
    }
    uint64_t tiles = ingot_round_up(n, INGOT_TILE_ROWS) / INGOT_TILE_ROWS;
    return ingot_multiply(tiles, ingot_tile_bytes(dtype, k, group), &result) ? result : 0;
}
