/* SPDX-License-Identifier: Apache-2.0 */
/* Sixteen floats as four registers; see vector.h for the contract. */
#ifndef INGOT_VECTOR_NEON_H
#define INGOT_VECTOR_NEON_H

#ifndef __ARM_NEON
#error "this file needs NEON"
#endif

#include <arm_neon.h>
#include <stdint.h>

#define VECTOR_ROWS 2
#define VECTOR_COLUMNS 2

typedef float32x4x4_t v16;

#define V16_MAP1(f, x) ((v16){{f((x).val[0]), f((x).val[1]), f((x).val[2]), f((x).val[3])}})
#define V16_MAP2(f, x, y) \
    ((v16){               \
        {f((x).val[0], (y).val[0]), f((x).val[1], (y).val[1]), f((x).val[2], (y).val[2]), f((x).val[3], (y).val[3])}})

static inline v16 v16_set(float x) {
    float32x4_t v = vdupq_n_f32(x);
    return (v16){{v, v, v, v}};
}
static inline v16 v16_zero(void) { return v16_set(0.0f); }
static inline v16 v16_load(const float *p) {
    return (v16){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
static inline void v16_store(float *p, v16 x) {
    for (int i = 0; i < 4; i++) {
        vst1q_f32(p + 4 * i, x.val[i]);
    }
}
static inline float32x4_t load_half4(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline v16 v16_load_half(const uint16_t *p) {
    return (v16){{load_half4(p), load_half4(p + 4), load_half4(p + 8), load_half4(p + 12)}};
}
static inline void v16_store_half(uint16_t *p, v16 x) {
    for (int i = 0; i < 4; i++) {
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.val[i])));
    }
}
static inline v16 v16_add(v16 x, v16 y) { return V16_MAP2(vaddq_f32, x, y); }
static inline v16 v16_sub(v16 x, v16 y) { return V16_MAP2(vsubq_f32, x, y); }
static inline v16 v16_mul(v16 x, v16 y) { return V16_MAP2(vmulq_f32, x, y); }
static inline v16 v16_div(v16 x, v16 y) { return V16_MAP2(vdivq_f32, x, y); }
/* vmaxq and vminq would return a NaN of either side. */
static inline float32x4_t larger4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
static inline float32x4_t smaller4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
static inline v16 v16_max(v16 x, v16 y) { return V16_MAP2(larger4, x, y); }
static inline v16 v16_min(v16 x, v16 y) { return V16_MAP2(smaller4, x, y); }
static inline v16 v16_absolute(v16 x) { return V16_MAP1(vabsq_f32, x); }
/* A quiet NaN becomes `high`, as in v16_max(v16_min(x, high), low). */
#define V16_CLAMP
static inline float32x4_t clamp4(float32x4_t x, float32x4_t low, float32x4_t high) {
    return vmaxnmq_f32(vminnmq_f32(x, high), low);
}
static inline v16 v16_clamp(v16 x, v16 low, v16 high) {
    return (v16){{clamp4(x.val[0], low.val[0], high.val[0]), clamp4(x.val[1], low.val[1], high.val[1]),
                  clamp4(x.val[2], low.val[2], high.val[2]), clamp4(x.val[3], low.val[3], high.val[3])}};
}
static inline v16 v16_fma(v16 x, v16 y, v16 z) {
    for (int i = 0; i < 4; i++) {
        z.val[i] = vfmaq_f32(z.val[i], x.val[i], y.val[i]);
    }
    return z;
}
static inline float v16_largest(v16 x) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.val[0], x.val[1]), vmaxq_f32(x.val[2], x.val[3])));
}
static inline v16 v16_scale_by_power(v16 x, v16 shifted) {
    for (int i = 0; i < 4; i++) {
        int32x4_t bits = vshlq_n_s32(vreinterpretq_s32_f32(shifted.val[i]), 23);
        x.val[i] = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x.val[i]), bits));
    }
    return x;
}
static inline int32_t v16_store_int8(int8_t *p, v16 x) {
    int16x8_t rounded[4];
    for (int i = 0; i < 4; i++) {
        rounded[i] = vreinterpretq_s16_s32(vcvtnq_s32_f32(x.val[i]));
    }
    const int16x8_t low = vuzp1q_s16(rounded[0], rounded[1]), high = vuzp1q_s16(rounded[2], rounded[3]);
    const int8x16_t codes = vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high));
    vst1q_s8(p, codes);
    return vaddlvq_s8(codes);
}
static inline float v16_tree_sum(v16 x) {
    float32x4_t low = vaddq_f32(x.val[0], x.val[2]), high = vaddq_f32(x.val[1], x.val[3]);
    float32x4_t four = vaddq_f32(low, high);
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

#endif
