/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_neon.h"

/* 4 rows x 2 k of a chunk as floats. */
LINEAR_INLINE void load_pairs(const uint8_t *chunk, int rows, float32x4_t *even, float32x4_t *odd) {
    const uint16x8_t pairs = vreinterpretq_u16_u8(vld1q_u8(chunk + 16 * rows));
    const uint16x8_t split = vuzp1q_u16(pairs, pairs), rest = vuzp2q_u16(pairs, pairs);
    *even = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(split)));
    *odd = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(rest)));
}

/* One chain of fused multiply-adds for each row and token: the order of k is part of the contract. */
LINEAR_INLINE void panel_f16(const ingot_linear_args *args, uint32_t tile, uint32_t token, int tokens) {
    const uint8_t *weights = args->weights + tile * args->tile_bytes;
    float32x4_t acc[4][4];
    UNROLL for (int i = 0; i < 4; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = vdupq_n_f32(0.0f); }
    }
    for (uint32_t c = 0; c < args->k / 2; c++) {
        const uint8_t *chunk = weights + (size_t)LINEAR_CHUNK * c;
        const float *x = args->x + token * args->x_stride + (size_t)2 * c;
        prefetch_lines(chunk, LINEAR_PREFETCH, 1);
        float32x2_t pair[4];
        UNROLL for (int j = 0; j < tokens; j++) { pair[j] = vld1_f32(x + (size_t)j * args->x_stride); }
        UNROLL for (int i = 0; i < 4; i++) {
            float32x4_t even, odd;
            load_pairs(chunk, i, &even, &odd);
            UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = vfmaq_lane_f32(acc[i][j], even, pair[j], 0); }
            UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = vfmaq_lane_f32(acc[i][j], odd, pair[j], 1); }
        }
    }
    UNROLL for (int i = 0; i < 4; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            vst1q_f32(linear_out(args, tile, token + (uint32_t)j) + 4 * i, acc[i][j]);
        }
    }
}

static void panel_4(const ingot_linear_args *args, uint32_t tile, uint32_t token) { panel_f16(args, tile, token, 4); }
static void panel_2(const ingot_linear_args *args, uint32_t tile, uint32_t token) { panel_f16(args, tile, token, 2); }
static void panel_1(const ingot_linear_args *args, uint32_t tile, uint32_t token) { panel_f16(args, tile, token, 1); }

static const linear_panel panels[] = {{4, panel_4}, {2, panel_2}, {1, panel_1}};

void ingot_linear_f16_f32__neon(const ingot_linear_args *args) { linear_cover(args, panels, NULL, 0); }
