/* SPDX-License-Identifier: Apache-2.0 */
/* Never shipped: c2 by table lookup for cores without dot products, for arm_model.py to compare with the products.
 *
 * For each byte j of a row's quad and each nibble, a table of 16 sums of two activations times two entries of the
 * codebook. The sums must be exact and need 16 bits, so that a table is a plane of low and a plane of high bytes, and
 * both are widened. Shift bits and the making of the tables are not counted: the loop flatters the lookup. */
#include <arm_neon.h>
#include <stdint.h>

static inline float32x4_t add_rows(float32x4_t acc, int16x4_t high, uint16x4_t low, int16x4_t sub_scale,
                                   float a_scale) {
    const int32x4_t dot = vreinterpretq_s32_u32(vaddw_u16(vreinterpretq_u32_s32(vshll_n_s16(high, 8)), low));
    return vfmaq_n_f32(acc, vcvtq_f32_s32(vmulq_s32(dot, vmovl_s16(sub_scale))), a_scale);
}

void panel_1(const uint8_t *codes, const uint8_t *tables, const int8_t *scales, const float *a_scale, uint32_t blocks,
             float *out) {
    float32x4_t acc[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (; blocks > 0; blocks--, codes += 128, tables += 512, scales += 16, a_scale++) {
        uint16x8_t low[2] = {vdupq_n_u16(0), vdupq_n_u16(0)};
        int16x8_t high[2] = {vdupq_n_s16(0), vdupq_n_s16(0)};
#pragma GCC unroll 2
        for (int chunk = 0; chunk < 2; chunk++) {
            const uint8x16x4_t rows = vld4q_u8(codes + 64 * chunk); /* byte j of 16 rows in register j */
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const uint8x16_t index[2] = {vandq_u8(rows.val[j], vdupq_n_u8(15)), vshrq_n_u8(rows.val[j], 4)};
#pragma GCC unroll 2
                for (int n = 0; n < 2; n++) {
                    const uint8_t *table = tables + 256 * chunk + 64 * j + 32 * n;
                    const uint8x16_t lower = vqtbl1q_u8(vld1q_u8(table), index[n]);
                    const int8x16_t upper = vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(table + 16), index[n]));
                    low[0] = vaddw_u8(low[0], vget_low_u8(lower));
                    low[1] = vaddw_high_u8(low[1], lower);
                    high[0] = vaddw_s8(high[0], vget_low_s8(upper));
                    high[1] = vaddw_high_s8(high[1], upper);
                }
            }
        }
        const int8x16_t bytes = vshrq_n_s8(vld1q_s8(scales), 1);
        const int16x8_t sub_scale[2] = {vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)};
        for (int i = 0; i < 2; i++) {
            acc[2 * i] =
                add_rows(acc[2 * i], vget_low_s16(high[i]), vget_low_u16(low[i]), vget_low_s16(sub_scale[i]), *a_scale);
            acc[2 * i + 1] = add_rows(acc[2 * i + 1], vget_high_s16(high[i]), vget_high_u16(low[i]),
                                      vget_high_s16(sub_scale[i]), *a_scale);
        }
    }
    for (int i = 0; i < 4; i++) vst1q_f32(out + 4 * i, acc[i]);
}
