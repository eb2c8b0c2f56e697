/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes of packed weights, and products that must not wrap. The layout is drawn in kernels/linear/linear.h. */
#ifndef INGOT_LAYOUT_H
#define INGOT_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

/** Bytes of one tile of 16 rows over k columns; 0 for k 0, an unknown format or group, or on overflow. */
uint64_t ingot_tile_bytes(uint32_t dtype, uint64_t k, uint32_t group);
/** Bytes of a whole (n, k) weight, rows padded to 16; 0 as above. */
uint64_t ingot_packed_bytes(uint32_t dtype, uint64_t n, uint64_t k, uint32_t group);
/** True if a weight format may have this group; false for a dtype that is no weight format. */
bool ingot_group_valid(uint32_t dtype, uint32_t group);

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
