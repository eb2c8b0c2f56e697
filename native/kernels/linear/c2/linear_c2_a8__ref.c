/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_ref.h"

static float output(const ingot_linear_args *args, uint32_t tile, uint32_t row, uint32_t token) {
    return codebook_output(args, tile, row, token, LINEAR_C2, pair);
}

void ingot_linear_c2_a8__ref(const ingot_linear_args *args) { for_each_output(args, output); }
