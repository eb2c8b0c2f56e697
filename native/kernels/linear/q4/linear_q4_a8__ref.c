/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token) {
    const bool k8 = args->layout == INGOT_LAYOUT_T16_K8;
    float acc = 0.0f;
    linear_walk walk = walk_tile(args, tile, LINEAR_Q4);
    for (linear_block block; next_block(&walk, &block);) {
        const int8_t *a = activations(args, block, token);
        int32_t dot = 0;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) {
            const uint32_t code = k8 ? nibble_k8(block.codes, row, k) : nibble(block.codes, row, k);
            dot += ((int32_t)code - 8) * a[k];
        }
        acc = fmaf((float)dot, load_half(block.scales + 2 * row) * activation_scale(args, block, token), acc);
    }
    return acc;
}

void ingot_linear_q4_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
