/* SPDX-License-Identifier: Apache-2.0 */
/* Sixteen floats as an array: the plain meaning of every operation; see vector.h for the contract. */
#ifndef INGOT_VECTOR_REF_H
#define INGOT_VECTOR_REF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/half.h"

#define VECTOR_ROWS 1
#define VECTOR_COLUMNS 1

typedef struct v16 {
    float lane[16];
} v16;

#define V16_LANES(expression)      \
    v16 y;                         \
    for (int i = 0; i < 16; i++) { \
        y.lane[i] = (expression);  \
    }                              \
    return y

static inline v16 v16_set(float x) { V16_LANES(x); }
static inline v16 v16_zero(void) { return v16_set(0.0f); }
static inline v16 v16_load(const float *p) { V16_LANES(p[i]); }
static inline void v16_store(float *p, v16 x) { memcpy(p, x.lane, sizeof x.lane); }
static inline v16 v16_load_half(const uint16_t *p) { V16_LANES(ingot_half_to_float(p[i])); }
static inline void v16_store_half(uint16_t *p, v16 x) {
    for (int i = 0; i < 16; i++) {
        p[i] = ingot_float_to_half(x.lane[i]);
    }
}
static inline v16 v16_add(v16 a, v16 b) { V16_LANES(a.lane[i] + b.lane[i]); }
static inline v16 v16_sub(v16 a, v16 b) { V16_LANES(a.lane[i] - b.lane[i]); }
static inline v16 v16_mul(v16 a, v16 b) { V16_LANES(a.lane[i] * b.lane[i]); }
static inline v16 v16_div(v16 a, v16 b) { V16_LANES(a.lane[i] / b.lane[i]); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { V16_LANES(fmaf(a.lane[i], b.lane[i], c.lane[i])); }
static inline v16 v16_max(v16 a, v16 b) { V16_LANES(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
static inline v16 v16_min(v16 a, v16 b) { V16_LANES(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
static inline v16 v16_absolute(v16 a) { V16_LANES(fabsf(a.lane[i])); }
static inline float v16_largest(v16 a) {
    float largest = a.lane[0];
    for (int i = 1; i < 16; i++) {
        largest = a.lane[i] > largest ? a.lane[i] : largest;
    }
    return largest;
}
static inline v16 v16_scale_by_power(v16 x, v16 shifted) {
    for (int i = 0; i < 16; i++) {
        uint32_t bits, power;
        memcpy(&bits, &x.lane[i], sizeof bits);
        memcpy(&power, &shifted.lane[i], sizeof power);
        bits += power << 23;
        memcpy(&x.lane[i], &bits, sizeof bits);
    }
    return x;
}
static inline int32_t v16_store_int8(int8_t *p, v16 x) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        int32_t value = (int32_t)rintf(x.lane[i]);
        p[i] = (int8_t)value;
        sum += value;
    }
    return sum;
}
static inline float v16_tree_sum(v16 a) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            a.lane[i] += a.lane[i + half];
        }
    }
    return a.lane[0];
}

#endif
