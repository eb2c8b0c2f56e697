/* SPDX-License-Identifier: Apache-2.0 */
/* The formula of linear.h, one output at a time. Included by the ref files only. */
#ifndef INGOT_KERNELS_LINEAR_REF_H
#define INGOT_KERNELS_LINEAR_REF_H

#include <math.h>

#include "kernels/half.h"
#include "kernels/linear/linear_blocks.h"

static inline float load_half(const uint8_t *bytes) {
    return ingot_half_to_float((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* The 4-bit code of (row, k), k in 0..31 of a block. */
static inline uint32_t nibble(const uint8_t *codes, uint32_t row, uint32_t k) {
    const uint8_t byte = codes[LINEAR_CHUNK * (k / 8) + 4 * row + k % 4];
    return k % 8 < 4 ? byte & 15u : byte >> 4;
}

/* One output: a row of one tile with the activations of one token. */
typedef float (*output_fn)(const ingot_linear_args *args, const uint8_t *tile, uint32_t row, uint32_t token);

static inline void for_each_output(const ingot_linear_args *args, output_fn output) {
    for (uint32_t token = 0; token < args->m; token++) {
        for (uint32_t tile = args->tile_begin; tile < args->tile_end; tile++) {
            const uint8_t *weights = args->weights + tile * args->tile_bytes;
            for (uint32_t row = 0; row < LINEAR_ROWS; row++) {
                linear_out(args, tile, token)[row] = output(args, weights, row, token);
            }
        }
    }
}

#endif
