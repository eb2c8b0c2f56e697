/* SPDX-License-Identifier: Apache-2.0 */
/* int8 beside v16 with NEON, with sdot where the file is compiled for it; see int8_ref.h for the contract. */
#ifndef INGOT_INT8_NEON_H
#define INGOT_INT8_NEON_H

#include "kernels/vector/vector_neon.h"

#define DOT_COLUMNS 1

typedef int32x4x4_t dot16;
typedef int8x16x4_t dot_key;
typedef int8x16_t dot_query;

static inline dot16 dot_start(int32_t sum_of_query) {
    (void)sum_of_query;
    int32x4_t zero = vdupq_n_s32(0);
    return (dot16){{zero, zero, zero, zero}};
}
static inline dot_key key_load(const int8_t *p) { return vld1q_s8_x4(p); }
static inline dot_query query_load(const int8_t *p) {
    return vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)p));
}
/* Four positions; two products of 127 * 127 fit an int16. */
static inline int32x4_t dot_four(int32x4_t sum, int8x16_t key, int8x16_t query) {
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, key, query);
#else
    int16x8_t low = vmull_s8(vget_low_s8(key), vget_low_s8(query)), high = vmull_high_s8(key, query);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}
static inline dot16 dot_add(dot16 sum, dot_key key, dot_query query) {
    for (int i = 0; i < 4; i++) {
        sum.val[i] = dot_four(sum.val[i], key.val[i], query);
    }
    return sum;
}
static inline v16 dot_float(dot16 sum) { return V16_MAP1(vcvtq_f32_s32, sum); }
static inline v16 v16_from_int8(int8x16_t codes) {
    int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_high_s8(codes);
    return (v16){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))}};
}
static inline v16 v16_load_int8(const int8_t *p) { return v16_from_int8(vld1q_s8(p)); }
static inline v16 v16_load_int4(const uint8_t *p) {
    uint8x8_t bytes = vld1_u8(p);
    uint8x16_t codes = vcombine_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
    return v16_from_int8(vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(8)));
}

#endif
