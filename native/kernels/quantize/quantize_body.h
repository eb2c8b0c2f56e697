/* SPDX-License-Identifier: Apache-2.0 */
/* Written once over v16; a file of an ISA includes its vector header, then this. Contract: quantize.h. */
#include <stdbool.h>
#include <string.h>

#include "kernels/quantize/quantize.h"
#include "kernels/vector/vector.h"

/* Changes what stems from a NaN or an infinity only. */
static v16 limit(v16 x) { return v16_clamp(x, v16_set(-127.0f), v16_set(127.0f)); }

/* v16_max(NaN, y) is y: the largest of the numbers, in whatever order they are compared. */
static float largest_of(const float *x) {
    const v16 low = v16_absolute(v16_load(x)), high = v16_absolute(v16_load(x + 16));
    return v16_largest(v16_max(high, v16_max(low, v16_zero())));
}

static int32_t quantize_group(const float *x, float inverse, int8_t *a) {
    const v16 factor = v16_set(inverse);
    return v16_store_int8_pair(a, limit(v16_mul(v16_load(x), factor)), limit(v16_mul(v16_load(x + 16), factor)));
}

/* Of up to 16 groups, 0 beyond. A load of what was just stored in pieces waits for all stores before it, those too whose
 * lines come from another core: where there is an insertion into a register, that is faster. */
static v16 largest_of_groups(const float *x, uint32_t count, float *largest) {
    v16 all = v16_zero();
#ifdef V16_INSERT
    for (uint32_t g = 0; g < count; g++) all = v16_insert(all, g, largest_of(x + 32 * g));
    v16_store(largest, all);
#else
    v16_store(largest, all);
    for (uint32_t g = 0; g < count; g++) largest[g] = largest_of(x + 32 * g);
    all = v16_load(largest);
#endif
    return all;
}

/* Up to 16 groups, so that their divisions are two instructions. */
static void quantize_groups(const float *x, uint32_t count, int8_t *a, float *a_scale, int32_t *a_sum) {
    float largest[16], inverse[16], scale[16];
    const v16 all = largest_of_groups(x, count, largest);
    v16_store(inverse, v16_div(v16_set(127.0f), all));
    v16_store(scale, v16_div(all, v16_set(127.0f)));
    for (uint32_t g = 0; g < count; g++) {
        const bool any = largest[g] >= 1e-30f;
        a_scale[g] = any ? scale[g] : 0.0f;
        a_sum[g] = quantize_group(x + 32 * g, any ? inverse[g] : 0.0f, a + 32 * g);
    }
}

static void quantize_row(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale, int32_t *a_sum) {
    const uint32_t whole = k / 32;
    for (uint32_t g = 0; g < whole; g += 16) {
        quantize_groups(x + 32 * g, whole - g < 16 ? whole - g : 16, a + 32 * g, a_scale + g, a_sum + g);
    }
    for (uint32_t g = whole; g < k_padded / 32; g++) {
        float padded[32] = {0};
        if (32 * g < k) {
            memcpy(padded, x + 32 * g, (k - 32 * g) * sizeof(float));
        }
        quantize_groups(padded, 1, a + 32 * g, a_scale + g, a_sum + g);
    }
}
