/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static int32_t weight(const ingot_linear_args *args, const uint8_t *codes, uint32_t row, uint32_t k) {
    const bool k8 = args->layout == INGOT_LAYOUT_T16_K8;
    const uint32_t t16 = LINEAR_CHUNK * (k / 4) + 4 * row + k % 4;
    const uint32_t chunk_k8 = 2 * (k / 8) + row % 4 / 2, byte_k8 = 16 * (row / 4) + 8 * (row % 2) + k % 8;
    return (int8_t)codes[k8 ? LINEAR_CHUNK * chunk_k8 + byte_k8 : t16];
}

static float output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token) {
    float acc = 0.0f;
    linear_walk walk = walk_tile(args, tile, LINEAR_Q8);
    for (linear_block block; next_block(&walk, &block);) {
        const int8_t *a = activations(args, block, token);
        int32_t dot = 0;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) dot += weight(args, block.codes, row, k) * a[k];
        acc = fmaf((float)dot, load_half(block.scales + 2 * row) * activation_scale(args, block, token), acc);
    }
    return acc;
}

void ingot_linear_q8_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
