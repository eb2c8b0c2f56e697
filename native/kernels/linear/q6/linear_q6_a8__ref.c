/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token) {
    float acc = 0.0f;
    linear_walk walk = walk_tile(args, tile, LINEAR_Q6);
    for (linear_block block; next_block(&walk, &block);) {
        const int8_t *a = activations(args, block, token);
        const uint8_t *pairs = block.codes + 4 * LINEAR_CHUNK;
        int32_t dot = 0;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) {
            dot += ((int32_t)(nibble(block.codes, row, k) + 16 * pair(pairs, row, k)) - 32) * a[k];
        }
        acc = fmaf((float)(dot * (int8_t)block.scales[row]), activation_scale(args, block, token), acc);
    }
    return acc * load_half(walk.tile.head + 2 * row);
}

void ingot_linear_q6_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
