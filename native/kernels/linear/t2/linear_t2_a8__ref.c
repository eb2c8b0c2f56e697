/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float load_float(const uint8_t *bytes) {
    float value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static float output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token) {
    int32_t total = 0;
    linear_walk walk = walk_tile(args, tile, LINEAR_T2);
    for (linear_block block; next_block(&walk, &block);) {
        const int8_t *a = activations(args, block, token);
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) total += ((int32_t)pair(block.codes, row, k) - 1) * a[k];
    }
    return (float)total * args->a_scale[token * args->s_stride] * load_float(walk.tile.head + 4 * row);
}

void ingot_linear_t2_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
