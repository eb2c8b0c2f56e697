/* SPDX-License-Identifier: Apache-2.0 */
/* One source for all ISAs: loops over 16 independent lanes, which compilers turn into vectors of any width. */
#include <math.h>

#include "kernels/quantize/quantize.h"

enum { LANES = 16 };

static float larger(float a, float b) { return a > b ? a : b; }

/* The largest |x|; a NaN never compares larger. */
static float largest_of(const float *x, uint32_t k) {
    float lanes[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) lanes[j] = larger(fabsf(x[i + j]), lanes[j]);
    }
    float largest = 0.0f;
    for (; i < k; i++) largest = larger(fabsf(x[i]), largest);
    for (uint32_t j = 0; j < LANES; j++) largest = larger(lanes[j], largest);
    return largest;
}

/* To the nearest even: adding 1.5 * 2^23 leaves no bits for a fraction. NaN becomes 127, as in quantize.h. */
static int32_t round_limited(float value) {
    const float high = value < 127.0f ? value : 127.0f, limited = high > -127.0f ? high : -127.0f;
    return (int32_t)(limited + 12582912.0f - 12582912.0f);
}

void ingot_quantize_token(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale, int32_t *a_sum) {
    const float largest = largest_of(x, k);
    const float inverse = largest >= 1e-30f ? 127.0f / largest : 0.0f;
    for (uint32_t g = 0; g < k_padded / 32; g++) a_scale[g] = largest >= 1e-30f ? largest / 127.0f : 0.0f;
    for (uint32_t i = 0; i < k; i++) a[i] = (int8_t)round_limited(x[i] * inverse);
    for (uint32_t i = k; i < k_padded; i++) a[i] = 0;
    for (uint32_t g = 0; g < k_padded / 32; g++) {
        a_sum[g] = 0;
        for (uint32_t i = 0; i < 32; i++) a_sum[g] += a[32 * g + i];
    }
}
