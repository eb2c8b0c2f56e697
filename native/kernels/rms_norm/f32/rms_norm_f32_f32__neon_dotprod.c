/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/vector/vector_neon.h"

#include "kernels/rms_norm/rms_norm_body.h"
#include "kernels/row_kernels.h"

void ingot_rms_norm_f32_f32__neon_dotprod(const float *x, const float *weight, uint32_t n, float epsilon, float *y) {
    rms_norm_slice(x, weight, n, epsilon, y);
}
