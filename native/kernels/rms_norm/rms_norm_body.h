/* SPDX-License-Identifier: Apache-2.0 */
/* Written once over v16; a file of an ISA includes its vector header, then this. Contract: rms_norm.h. */
#include <math.h>
#include <string.h>

#include "kernels/rms_norm/rms_norm.h"
#include "kernels/vector/vector.h"

static v16 load_tail(const float *x, uint32_t count) {
    float lanes[16] = {0};
    memcpy(lanes, x, count * sizeof(float));
    return v16_load(lanes);
}

static void rms_norm_slice(const float *x, const float *weight, uint32_t n, float epsilon, float *y) {
    uint32_t whole = n - n % 16;
    v16 squares = v16_zero();
    for (uint32_t i = 0; i < whole; i += 16) {
        v16 value = v16_load(x + i);
        squares = v16_fma(value, value, squares);
    }
    if (whole < n) {
        v16 value = load_tail(x + whole, n - whole);
        squares = v16_fma(value, value, squares);
    }
    float inverse = 1.0f / sqrtf(v16_tree_sum(squares) / (float)n + epsilon);
    v16 factor = v16_set(inverse);
    for (uint32_t i = 0; i < whole; i += 16) {
        v16_store(y + i, v16_mul(v16_mul(v16_load(x + i), factor), v16_load(weight + i)));
    }
    for (uint32_t i = whole; i < n; i++) {
        y[i] = x[i] * inverse * weight[i];
    }
}
