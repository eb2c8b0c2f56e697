/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float output(const ingot_linear_args *args, const uint8_t *tile, uint32_t row, uint32_t token) {
    float acc = 0.0f;
    for (uint32_t b = 0; b < args->k / LINEAR_BLOCK; b++) {
        const linear_block block = linear_q4_block(tile, b, args->group);
        const int8_t *a = args->a + token * args->a_stride + LINEAR_BLOCK * b;
        int32_t dot = 0;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) {
            dot += ((int32_t)nibble(block.codes, row, k) - 8) * a[k];
        }
        const float scale = load_half(block.scales + 2 * row) * args->a_scale[token * args->s_stride + b];
        acc = fmaf((float)dot, scale, acc);
    }
    return acc;
}

void ingot_linear_q4_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
