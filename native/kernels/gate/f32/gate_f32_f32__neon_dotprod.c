/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/vector/vector_neon.h"

#include "kernels/gate/gate_body.h"
#include "kernels/row_kernels.h"

void ingot_gate_f32_f32__neon_dotprod(ingot_activation_kind kind, const float *gate, const float *up, float *y) {
    gate_lanes(kind, gate, up, y);
}
