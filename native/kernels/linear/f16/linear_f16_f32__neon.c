/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_neon.h"

/* 4 rows x 2 k of a chunk as floats. */
NEON_INLINE void load_pairs(const uint8_t *chunk, int rows, float32x4_t *even, float32x4_t *odd) {
    const uint16x8_t pairs = vreinterpretq_u16_u8(vld1q_u8(chunk + 16 * rows));
    const uint16x8_t split = vuzp1q_u16(pairs, pairs), rest = vuzp2q_u16(pairs, pairs);
    *even = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(split)));
    *odd = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(rest)));
}

/* One chain of fused multiply-adds for each row and token: the order of k is part of the contract. */
NEON_INLINE void panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, int tokens) {
    neon_walk walk = walk_tile(args, tile, F16, UINT32_MAX / 2);
    neon_superblock s;
    float32x4_t acc[4][4];
    UNROLL for (int i = 0; i < 4; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = vdupq_n_f32(0.0f); }
    }
    while (walk_on(&walk, args, F16, &s)) {
        const float *x = args->x + token * args->x_stride + (size_t)BLOCK * s.first;
        const uint8_t *chunk = s.codes;
        for (uint32_t c = 0; c < s.blocks * BLOCK / 2; c++, chunk += CHUNK, x += 2) {
            float32x2_t pair[4];
            UNROLL for (int j = 0; j < tokens; j++) { pair[j] = vld1_f32(x + (size_t)j * args->x_stride); }
            UNROLL for (int i = 0; i < 4; i++) {
                float32x4_t even, odd;
                load_pairs(chunk, i, &even, &odd);
                UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = vfmaq_lane_f32(acc[i][j], even, pair[j], 0); }
                UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = vfmaq_lane_f32(acc[i][j], odd, pair[j], 1); }
            }
        }
    }
    UNROLL for (int i = 0; i < 4; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            vst1q_f32(out_rows(args, tile, token + (uint32_t)j) + 4 * i, acc[i][j]);
        }
    }
}

void ingot_linear_f16_f32__neon(const ingot_linear_args *args) {
    for (uint32_t tile = args->tile_begin; tile < args->tile_end; tile++) {
        uint32_t token = 0;
        for (; args->m - token >= 4; token += 4) panel(args, tile, token, 4);
        for (; args->m - token >= 2; token += 2) panel(args, tile, token, 2);
        for (; token < args->m; token++) panel(args, tile, token, 1);
    }
}
