/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static uint32_t code(const uint8_t *codes, uint32_t row, uint32_t k) {
    return nibble(codes, row, k) + 16 * bit(codes + 4 * LINEAR_CHUNK, row, k);
}

static float output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token) {
    return codebook_output(args, tile, row, token, LINEAR_C5, code);
}

void ingot_linear_c5_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
