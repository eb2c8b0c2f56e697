/* SPDX-License-Identifier: Apache-2.0 */
/* Written once over v16; a file of an ISA includes its vector header, then this. Contract: gate.h. */
#include <stddef.h>

#include "kernels/gate/gate.h"
#include "kernels/vector/vector.h"

static void gate_lanes(ingot_activation_kind kind, const float *gate, const float *up, float *y) {
    v16 value = v16_load(gate);
    if (kind == INGOT_ACTIVATION_KIND_SILU) {
        value = v16_silu(value);
    } else if (kind == INGOT_ACTIVATION_KIND_GELU_TANH) {
        value = v16_gelu_tanh(value);
    } else {
        value = v16_max(value, v16_zero());
    }
    if (up != NULL) {
        value = v16_mul(value, v16_load(up));
    }
    v16_store(y, value);
}
