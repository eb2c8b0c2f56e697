/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float output(const ingot_linear_args *args, const uint8_t *tile, uint32_t row, uint32_t token) {
    float acc = 0.0f;
    for (uint32_t b = 0; b < args->k / LINEAR_BLOCK; b++) {
        const linear_block block = linear_c4_block(tile, b);
        const int8_t *a = args->a + token * args->a_stride + LINEAR_BLOCK * b;
        int32_t dot = 0;
        for (uint32_t k = 0; k < LINEAR_BLOCK; k++) {
            dot += args->codebook[nibble(block.codes, row, k)] * a[k];
        }
        const int32_t shifted = block.scales[row] & 1, bits = block.scales[row] >> 1;
        const int32_t sub_scale = bits < 64 ? bits : bits - 128;
        dot += shifted * args->delta * args->a_sum[token * args->s_stride + b];
        acc = fmaf((float)(dot * sub_scale), args->a_scale[token * args->s_stride + b], acc);
    }
    return acc * load_half(tile + 2 * row);
}

void ingot_linear_c4_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
