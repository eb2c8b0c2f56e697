/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes of packed tiles and their sparse form. Written out again rather than taken from the library: a second opinion
 * on the layout. */
#include <string.h>

#include "ingot_format.h"
#include "kernel_harness.h"

const linear_geometry linear_geometries[] = {
    {INGOT_DTYPE_F16, 0, 1, 0, 1024},
    {INGOT_DTYPE_Q8, 0, 2, 32, 512},
    {INGOT_DTYPE_Q6, 64, 4, 16, 384},
    {INGOT_DTYPE_C5, 64, 4, 16, 320},
    {INGOT_DTYPE_Q4, 0, 2, 32, 256},
    {INGOT_DTYPE_Q4Z, 0, 4, 48, 256},
    {INGOT_DTYPE_C4, 64, 4, 16, 256},
    {INGOT_DTYPE_C3, 64, 4, 16, 192},
    {INGOT_DTYPE_C2, 64, 4, 16, 128},
    {INGOT_DTYPE_T2, 64, 2, 0, 128},
    {0},
};

static const linear_geometry *geometry_of(uint32_t dtype) {
    const linear_geometry *g = linear_geometries;
    while (g->dtype != dtype) g++;
    return g;
}

bool linear_has_codebook_entries(uint32_t dtype) {
    return dtype == INGOT_DTYPE_C5 || dtype == INGOT_DTYPE_C4 || dtype == INGOT_DTYPE_C3 || dtype == INGOT_DTYPE_C2;
}

bool linear_has_groups(uint32_t dtype) { return dtype == INGOT_DTYPE_Q4 || dtype == INGOT_DTYPE_Q4Z; }

static size_t round_up_64(size_t size) { return (size + 63) / 64 * 64; }

static size_t superblock_size(const linear_geometry *g, uint32_t group, size_t groups) {
    return round_up_64(groups * g->scales) + groups * (group > 32 ? group / 32 : 1) * g->codes;
}

size_t linear_tile_size(uint32_t dtype, uint32_t k, uint32_t group) {
    const linear_geometry *g = geometry_of(dtype);
    const uint32_t unit = group > 32 ? group : 32, groups = (k + unit - 1) / unit;
    return g->head + groups / g->groups * superblock_size(g, group, g->groups) +
           superblock_size(g, group, groups % g->groups);
}

size_t linear_tile_thin(const linear_shape *shape, const uint8_t *dense, linear_keep keep, void *argument,
                        uint8_t *sparse) {
    const linear_geometry *g = geometry_of(shape->dtype);
    const uint32_t unit = shape->group > 32 ? shape->group : 32, groups = (shape->k + unit - 1) / unit;
    const uint32_t superblocks = (groups + g->groups - 1) / g->groups;
    uint8_t kept[4096] = {0};
    uint32_t count = 0;
    memset(sparse, 0, 4 + 2 * (size_t)superblocks + 64);
    for (uint32_t s = 0; s < superblocks && s < sizeof kept; s++) {
        kept[s] = keep(s, superblocks, argument);
        if (!kept[s]) continue;
        sparse[4 + 2 * count] = (uint8_t)s;
        sparse[5 + 2 * count] = (uint8_t)(s >> 8);
        count++;
    }
    memcpy(sparse, &count, sizeof count);
    size_t at = round_up_64(4 + 2 * (size_t)count);
    memcpy(sparse + at, dense, g->head);
    at += g->head;
    const uint8_t *from = dense + g->head;
    for (uint32_t s = 0; s < superblocks; s++) {
        const uint32_t rest = groups - s * g->groups;
        const size_t size = superblock_size(g, shape->group, rest < g->groups ? rest : g->groups);
        if (kept[s]) memcpy(sparse + at, from, size), at += size;
        from += size;
    }
    return at;
}
