/* SPDX-License-Identifier: Apache-2.0 */
#include "core/layout.h"

#include <string.h>

#include "ingot_format.h"

bool ingot_group_valid(uint32_t dtype, uint32_t group) {
    switch (dtype) {
        case INGOT_DTYPE_F16:
        case INGOT_DTYPE_T2: return group == 0;
        case INGOT_DTYPE_Q8:
        case INGOT_DTYPE_Q6:
        case INGOT_DTYPE_C5:
        case INGOT_DTYPE_C4:
        case INGOT_DTYPE_C3:
        case INGOT_DTYPE_C2: return group == 32;
        case INGOT_DTYPE_Q4:
        case INGOT_DTYPE_Q4Z: return group == 32 || group == 64 || group == 128;
        default: return false;
    }
}

uint32_t ingot_codebook_entries(uint32_t dtype) {
    switch (dtype) {
        case INGOT_DTYPE_C5: return 32;
        case INGOT_DTYPE_C4: return 16;
        case INGOT_DTYPE_C3: return 8;
        case INGOT_DTYPE_C2: return 4;
        default: return 0;
    }
}

bool ingot_layout_valid(uint32_t dtype, uint32_t layout) {
    bool both = dtype == INGOT_DTYPE_Q8 || dtype == INGOT_DTYPE_Q4 || dtype == INGOT_DTYPE_C4;
    return layout == INGOT_LAYOUT_T16 || (both && layout == INGOT_LAYOUT_T16_K8);
}

/* 32 k of 16 rows take 64 bytes per bit of a code. */
static ingot_tile_geometry sub_scaled(uint64_t bits) {
    return (ingot_tile_geometry){.group = 32, .groups = 4, .head = 64, .meta = 16, .codes = 64 * bits};
}

ingot_tile_geometry ingot_geometry_of(uint32_t dtype, uint32_t group) {
    switch (dtype) {
        case INGOT_DTYPE_F16: return (ingot_tile_geometry){.group = 32, .groups = 1, .codes = 1024};
        case INGOT_DTYPE_Q8: return (ingot_tile_geometry){.group = 32, .groups = 2, .meta = 32, .codes = 512};
        case INGOT_DTYPE_Q6: return sub_scaled(6);
        case INGOT_DTYPE_C5: return sub_scaled(5);
        case INGOT_DTYPE_Q4:
            return (ingot_tile_geometry){.group = group, .groups = 2, .meta = 32, .codes = (uint64_t)8 * group};
        case INGOT_DTYPE_Q4Z:
            return (ingot_tile_geometry){.group = group, .groups = 4, .meta = 48, .codes = (uint64_t)8 * group};
        case INGOT_DTYPE_C3: return sub_scaled(3);
        case INGOT_DTYPE_C2: return sub_scaled(2);
        case INGOT_DTYPE_T2: return (ingot_tile_geometry){.group = 32, .groups = 2, .head = 64, .codes = 128};
        default: return sub_scaled(4);
    }
}

uint64_t ingot_superblock_bytes(const ingot_tile_geometry *geometry, uint64_t groups) {
    return ingot_round_up(groups * geometry->meta, INGOT_CHUNK_BYTES) + groups * geometry->codes;
}

uint64_t ingot_tile_bytes(uint32_t dtype, uint64_t k, uint32_t group) {
    if (k == 0 || k > INGOT_MAX_DIMENSION || !ingot_group_valid(dtype, group)) {
        return 0;
    }
    const ingot_tile_geometry g = ingot_geometry_of(dtype, group);
    uint64_t groups = (k + g.group - 1) / g.group;
    return g.head + groups / g.groups * ingot_superblock_bytes(&g, g.groups) +
           ingot_superblock_bytes(&g, groups % g.groups);
}

uint64_t ingot_packed_bytes(uint32_t dtype, uint64_t n, uint64_t k, uint32_t group) {
    uint64_t result;
    if (n > INGOT_MAX_DIMENSION) {
        return 0;
    }
    uint64_t tiles = ingot_round_up(n, INGOT_TILE_ROWS) / INGOT_TILE_ROWS;
    return ingot_multiply(tiles, ingot_tile_bytes(dtype, k, group), &result) ? result : 0;
}

/* A tile's list: how many superblocks it names, and whether the last of all, which may be short, is among them. */
typedef struct tile_list {
    uint64_t bytes;
    uint64_t count;
    bool has_last;
} tile_list;

static bool read_list(const uint8_t *data, uint64_t room, uint64_t superblocks, tile_list *list) {
    uint32_t count;
    if (room < sizeof count) {
        return false;
    }
    memcpy(&count, data, sizeof count);
    *list = (tile_list){ingot_round_up(sizeof count + 2 * (uint64_t)count, INGOT_CHUNK_BYTES), count, false};
    if (count > superblocks || list->bytes > room) {
        return false;
    }
    int64_t before = -1;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t index;
        memcpy(&index, data + sizeof count + 2 * (size_t)i, sizeof index);
        if (index <= before || index >= superblocks) {
            return false;
        }
        before = index;
    }
    list->has_last = before == (int64_t)superblocks - 1;
    for (uint64_t i = sizeof count + 2 * (uint64_t)count; i < list->bytes; i++) {
        if (data[i] != 0) {
            return false;
        }
    }
    return true;
}

bool ingot_sparse_walk(uint32_t dtype, uint64_t n, uint64_t k, uint32_t group, const uint8_t *data, uint64_t size,
                       uint64_t *offsets) {
    const ingot_tile_geometry g = ingot_geometry_of(dtype, group);
    const uint64_t groups = (k + g.group - 1) / g.group, superblocks = (groups + g.groups - 1) / g.groups;
    const uint64_t whole = ingot_superblock_bytes(&g, g.groups), rest = groups % g.groups;
    const uint64_t last = rest == 0 ? whole : ingot_superblock_bytes(&g, rest);
    const uint64_t tiles = ingot_round_up(n, INGOT_TILE_ROWS) / INGOT_TILE_ROWS;
    uint64_t place = 0;
    for (uint64_t tile = 0; tile < tiles; tile++) {
        tile_list list;
        if (!read_list(data + place, size - place, superblocks, &list)) {
            return false;
        }
        uint64_t bytes = list.bytes + g.head + list.count * whole - (list.has_last ? whole - last : 0);
        if (bytes > size - place) {
            return false;
        }
        if (offsets != NULL) {
            offsets[tile] = place;
        }
        place += bytes;
    }
    if (offsets != NULL) {
        offsets[tiles] = place;
    }
    return place == size;
}
