/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float output(const ingot_linear_args *args, const uint8_t *tile, uint32_t row, uint32_t token) {
    float acc = 0.0f;
    for (uint32_t b = 0; b < args->k / LINEAR_BLOCK; b++) {
        const uint8_t *codes = linear_f16_block(tile, b);
        const float *x = args->x + token * args->x_stride + LINEAR_BLOCK * b;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) {
            acc = fmaf(load_half(codes + LINEAR_CHUNK * (k / 2) + 2 * (2 * row + k % 2)), x[k], acc);
        }
    }
    return acc;
}

void ingot_linear_f16_f32__ref(const ingot_linear_args *args) { for_each_output(args, output); }
