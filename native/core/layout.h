/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes of packed weights, and products that must not wrap. The layout is drawn in kernels/linear/linear.h. */
#ifndef INGOT_LAYOUT_H
#define INGOT_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

/* How a tile is built: bytes, but for `group` (k) and `groups` (of a superblock). */
typedef struct ingot_tile_geometry {
    uint64_t group;
    uint64_t groups;
    uint64_t head;  /* once per tile */
    uint64_t meta;  /* per group, before the chunks; padded to 64 per superblock */
    uint64_t codes; /* per group */
} ingot_tile_geometry;

/** Geometry of a weight format; `group` must be valid. */
ingot_tile_geometry ingot_geometry_of(uint32_t dtype, uint32_t group);
/** Bytes of a superblock that holds so many groups. */
uint64_t ingot_superblock_bytes(const ingot_tile_geometry *geometry, uint64_t groups);

/** Bytes of one tile of 16 rows over k columns; 0 for k 0, an unknown format or group, or on overflow. */
uint64_t ingot_tile_bytes(uint32_t dtype, uint64_t k, uint32_t group);
/** Bytes of a whole dense (n, k) weight, rows padded to 16; 0 as above. */
uint64_t ingot_packed_bytes(uint32_t dtype, uint64_t n, uint64_t k, uint32_t group);
/** True if a weight format may have this group; false for a dtype that is no weight format. */
bool ingot_group_valid(uint32_t dtype, uint32_t group);
/** Entries of a format's codebook, 0 without. */
uint32_t ingot_codebook_entries(uint32_t dtype);
/** True if a weight format may have this layout. */
bool ingot_layout_valid(uint32_t dtype, uint32_t layout);

/** Walks over a weight that is sparse by superblock: checks every list and that the tiles fill `size` bytes exactly.
 * @param offsets where each tile starts, and the end: tiles + 1 of them, or NULL.
 * @return false if a list is out of order or range, its padding is not zero, or the tiles do not add up. */
bool ingot_sparse_walk(uint32_t dtype, uint64_t n, uint64_t k, uint32_t group, const uint8_t *data, uint64_t size,
                       uint64_t *offsets);

/** *result = a * b. @return false if it does not fit 63 bits. */
static inline bool ingot_multiply(uint64_t a, uint64_t b, uint64_t *result) {
    *result = a * b;
    return a == 0 || b <= (uint64_t)INT64_MAX / a;
}

/** True if [offset, offset + size) lies within room bytes. */
static inline bool ingot_fits(uint64_t offset, uint64_t size, uint64_t room) {
    return size <= room && offset <= room - size;
}

static inline uint64_t ingot_round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

#endif
