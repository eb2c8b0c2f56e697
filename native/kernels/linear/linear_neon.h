/* SPDX-License-Identifier: Apache-2.0 */
/* What both NEON panels share: a chunk is four registers of 4 rows x 4 k, an int32 or float lane is a row. */
#ifndef INGOT_KERNELS_LINEAR_NEON_H
#define INGOT_KERNELS_LINEAR_NEON_H

#ifndef __ARM_NEON
#error "this file needs NEON"
#endif

#include <arm_neon.h>

#include "kernels/linear/linear_panels.h"

LINEAR_INLINE float32x4_t load_halves(const uint8_t *halves) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(halves)));
}

LINEAR_INLINE int8x16_t load_codebook(const ingot_linear_args *args, linear_format format) {
    return format == LINEAR_C4 ? vld1q_s8(args->codebook) : vdupq_n_s8(8);
}

/* A block from the rows of quarter `first` on, so that what follows are constant offsets. */
LINEAR_INLINE linear_block find_quarter(const ingot_linear_args *args, const uint8_t *tile, uint32_t block, int first,
                                        linear_format format) {
    const linear_block whole = find_block(args, tile, block, format);
    return (linear_block){whole.scales + (format == LINEAR_C4 ? 4 : 8) * first, whole.codes + 16 * first};
}

/* Signed weights of 4 rows x 8 k: quad k..k+3 in low, k+4..k+7 in high. `table` is the codebook, or 8 for q4. */
LINEAR_INLINE void load_step(const uint8_t *codes, int step, int rows, linear_format format, int8x16_t table,
                             int8x16_t *low, int8x16_t *high) {
    if (format == LINEAR_Q8) {
        *low = vreinterpretq_s8_u8(vld1q_u8(codes + 2 * LINEAR_CHUNK * step + 16 * rows));
        *high = vreinterpretq_s8_u8(vld1q_u8(codes + 2 * LINEAR_CHUNK * step + LINEAR_CHUNK + 16 * rows));
        return;
    }
    const uint8x16_t chunk = vld1q_u8(codes + LINEAR_CHUNK * step + 16 * rows);
    const uint8x16_t even = vandq_u8(chunk, vdupq_n_u8(15)), odd = vshrq_n_u8(chunk, 4);
    if (format == LINEAR_C4) {
        *low = vqtbl1q_s8(table, even);
        *high = vqtbl1q_s8(table, odd);
    } else { /* codes stay unsigned, 8 times the sum of the activations goes off at the end */
        *low = vreinterpretq_s8_u8(even);
        *high = vreinterpretq_s8_u8(odd);
    }
}

/* What the dot product of 4 rows starts from. */
LINEAR_INLINE int32x4_t start_dot(int32_t a_sum, int32_t delta, const uint8_t *scales, int rows, linear_format format) {
    if (format == LINEAR_Q8) return vdupq_n_s32(0);
    if (format == LINEAR_Q4) return vdupq_n_s32(-8 * a_sum);
    uint32_t bytes;
    memcpy(&bytes, scales + 4 * rows, sizeof bytes);
    const uint16x4_t words = vget_low_u16(vmovl_u8(vcreate_u8(bytes)));
    const uint32x4_t shifted = vtstq_u32(vmovl_u16(words), vdupq_n_u32(1));
    return vandq_s32(vreinterpretq_s32_u32(shifted), vdupq_n_s32(delta * a_sum));
}

/* f16 scales of 4 rows, or the signed sub-scales of c4, as floats. */
LINEAR_INLINE float32x4_t load_scale(const uint8_t *scales, int rows, linear_format format) {
    if (format != LINEAR_C4) return load_halves(scales + 8 * rows);
    uint32_t bytes;
    memcpy(&bytes, scales + 4 * rows, sizeof bytes);
    const int16x4_t words = vget_low_s16(vmovl_s8(vshr_n_s8(vcreate_s8(bytes), 1)));
    return vcvtq_f32_s32(vmovl_s16(words));
}

/* |dot| < 2^24, so the c4 product of two floats is the integer product rounded once. */
LINEAR_INLINE float32x4_t accumulate(float32x4_t acc, int32x4_t dot, float32x4_t scale, float a_scale,
                                     linear_format format) {
    const float32x4_t value = vcvtq_f32_s32(dot), factor = vdupq_n_f32(a_scale);
    if (format == LINEAR_C4) return vfmaq_f32(acc, vmulq_f32(value, scale), factor);
    return vfmaq_f32(acc, value, vmulq_f32(scale, factor));
}

LINEAR_INLINE void store_rows(const ingot_linear_args *args, uint32_t tile, uint32_t token, int rows, float32x4_t acc,
                              linear_format format) {
    const uint8_t *weights = args->weights + tile * args->tile_bytes;
    if (format == LINEAR_C4) acc = vmulq_f32(acc, load_halves(weights + 8 * rows));
    vst1q_f32(linear_out(args, tile, token) + 4 * rows, acc);
}

/* A panel over 4 * quarters rows from quarter `first` of a tile on, times `tokens` tokens. */
#define NEON_PANEL(tokens, quarters, format)                                                                         \
    static void panel_##tokens(const ingot_linear_args *args, uint32_t tile, uint32_t token) {                       \
        for (int first = 0; first < 4; first += quarters) panel(args, tile, token, first, quarters, tokens, format); \
    }

#endif
