/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token) {
    float acc = 0.0f;
    linear_walk walk = walk_tile(args, tile, LINEAR_Q4Z);
    for (linear_block block; next_block(&walk, &block);) {
        const int8_t *a = activations(args, block, token);
        const int32_t zero = block.scales[32 + row];
        int32_t dot = 0;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) dot += ((int32_t)nibble(block.codes, row, k) - zero) * a[k];
        acc = fmaf((float)dot, load_half(block.scales + 2 * row) * activation_scale(args, block, token), acc);
    }
    return acc;
}

void ingot_linear_q4z_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
