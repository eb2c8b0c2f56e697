/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/vector/vector_neon.h"

#include "kernels/quantize/quantize_body.h"
#include "kernels/row_kernels.h"

void ingot_quantize_f32_a8__neon_dotprod(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale,
                                         int32_t *a_sum) {
    quantize_row(x, k, k_padded, a, a_scale, a_sum);
}
