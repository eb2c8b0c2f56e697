/* SPDX-License-Identifier: Apache-2.0 */
/* Written once over v16; a file of an ISA includes its vector header, then this. Contract: quantize.h. */
#include <string.h>

#include "kernels/quantize/quantize.h"
#include "kernels/vector/vector.h"

/* Changes what stems from a NaN or an infinity only. */
static v16 limit(v16 x) { return v16_clamp(x, v16_set(-127.0f), v16_set(127.0f)); }

static void quantize_group(const float *x, int8_t *a, float *a_scale, int32_t *a_sum) {
    v16 low = v16_load(x), high = v16_load(x + 16);
    /* v16_max(NaN, y) is y: the largest of the numbers, in whatever order they are compared. */
    float largest = v16_largest(v16_max(v16_absolute(high), v16_max(v16_absolute(low), v16_zero())));
    float inverse = largest >= 1e-30f ? 127.0f / largest : 0.0f;
    *a_scale = largest >= 1e-30f ? largest / 127.0f : 0.0f;
    v16 factor = v16_set(inverse);
    *a_sum = v16_store_int8(a, limit(v16_mul(low, factor))) + v16_store_int8(a + 16, limit(v16_mul(high, factor)));
}

static void quantize_row(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale, int32_t *a_sum) {
    uint32_t whole = k / 32;
    for (uint32_t g = 0; g < whole; g++) {
        quantize_group(x + 32 * g, a + 32 * g, a_scale + g, a_sum + g);
    }
    for (uint32_t g = whole; g < k_padded / 32; g++) {
        float padded[32] = {0};
        if (32 * g < k) {
            memcpy(padded, x + 32 * g, (k - 32 * g) * sizeof(float));
        }
        quantize_group(padded, a + 32 * g, a_scale + g, a_sum + g);
    }
}
