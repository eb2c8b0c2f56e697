/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token) {
    float acc = 0.0f;
    linear_walk walk = walk_tile(args, tile, LINEAR_F16);
    for (linear_block block; next_block(&walk, &block);) {
        const float *x = args->x + token * args->x_stride + LINEAR_BLOCK * (size_t)block.index;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) {
            acc = fmaf(load_half(block.codes + LINEAR_CHUNK * (k / 2) + 2 * (2 * row + k % 2)), x[k], acc);
        }
    }
    return acc;
}

void ingot_linear_f16_f32__ref(const ingot_linear_args *args) { for_each_output(args, output); }
